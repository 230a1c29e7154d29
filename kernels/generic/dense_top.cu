/* Dense assignment: the `top` largest log2-densities of a row, kept sorted while the components pass by. */
#include <cuda_runtime.h>
#include "kernels/generic/dense_tile.cuh"

namespace fgmm
{
namespace
{

constexpr int kThreads = 128;

/* A thread a row: components come in ascending order, a later equal one stays behind. Grid: (row tiles,
 * quanta). */
__global__ void __launch_bounds__(kThreads) insert(fgmm_dense_group group, int top)
{
    const DenseRows dense(group, blockIdx.y);
    const int r = blockIdx.x * kThreads + threadIdx.x;
    if (r >= dense.count)
        return;
    double *value = group.top_value + dense.place(r) * top;          /* [top] */
    int32_t *component = group.top_component + dense.place(r) * top; /* [top] */
    if (group.k_begin == 0)
        for (int place = 0; place < top; place++) {
            value[place] = -INFINITY;
            component[place] = -1;
        }
    double worst = value[top - 1];
    bool full = component[top - 1] >= 0;
    for (int k = 0; k < group.k_count; k++) {
        const double l = dense.column(group, k)[r];
        if (full && !(l > worst))
            continue;
        int place = top - 1;
        for (; place > 0 && (component[place - 1] < 0 || value[place - 1] < l); place--) {
            value[place] = value[place - 1];
            component[place] = component[place - 1];
        }
        value[place] = l;
        component[place] = group.k_begin + k;
        worst = value[top - 1];
        full = component[top - 1] >= 0;
    }
}

__global__ void __launch_bounds__(kThreads)
    write(fgmm_model_view model, fgmm_dense_group group, fgmm_assignment_view out)
{
    const DenseRows dense(group, blockIdx.y);
    const int r = blockIdx.x * kThreads + threadIdx.x;
    if (r >= dense.count)
        return;
    const int64_t place = dense.place(r), row = dense.rows[r];
    const double density =
        model.hard ? group.row_max[place] : group.row_max[place] + log2(group.row_sum[place]);
    out.log_density[row] = density;
    for (int i = 0; i < out.top; i++) {
        const int component = group.top_component[place * out.top + i];
        double weight = 0;
        if (component >= 0)
            weight = model.hard ? (i == 0 ? 1.0 : 0.0) : exp2(group.top_value[place * out.top + i] - density);
        out.labels[row * out.top + i] = component;
        out.responsibilities[row * out.top + i] = static_cast<float>(weight);
    }
}

dim3 row_grid(const fgmm_dense_group *group)
{
    return dim3((group->max_rows + kThreads - 1) / kThreads, group->quanta);
}

} // namespace
} // namespace fgmm

using namespace fgmm;

int fgmm__launch_dense_top(const fgmm_dense_group *group, int32_t top, fgmm_stream stream)
{
    insert<<<row_grid(group), kThreads, 0, stream>>>(*group, top);
    return cudaGetLastError();
}

int fgmm__launch_dense_write(const fgmm_model_view *model, const fgmm_dense_group *group,
                             const fgmm_assignment_view *out, fgmm_stream stream)
{
    write<<<row_grid(group), kThreads, 0, stream>>>(*model, *group, *out);
    return cudaGetLastError();
}
