/* A model's means as a file of rows. */
#ifndef FGMM_EXPORT_CENTROIDS_H
#define FGMM_EXPORT_CENTROIDS_H

#include "fgmm/model.h"

/* Local (one rank). The format follows the path's extension; values are rounded to 32-bit floats. */
fgmm_status fgmm__export_centroids(const fgmm_model *model, const char *path);

#endif
