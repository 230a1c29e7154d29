/* synth:n=1e9,d=128,k=1024,seed=1,dtype=u8 - rows of a known mixture, made when they are read. The formula is
 * in synth_row.h. */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "base/clones.h"
#include "base/log.h"
#include "base/options.h"
#include "io/format.h"
#include "io/synth_row.h"

#define PREFIX "synth:"

typedef struct {
    int64_t n, d, k, seed;
    fgmm_dtype dtype;
    double spread, anisotropy, noise;
    bool zipf;
} synth_spec;

typedef struct {
    fgmm_reader base;
    synth_spec spec;
    /* The tables are made at the first read: a look at the spec costs nothing. */
    pthread_mutex_t lock;
    bool ready;
    fgmm_synth_mixture mixture;
    int32_t *means, *scales;
    uint64_t *thresholds;
} synth_reader;

static bool synth_probe(const char *source)
{
    return strncmp(source, PREFIX, strlen(PREFIX)) == 0;
}

/* ---- the spec ---- */

static bool parse_dtype(const char *text, fgmm_dtype *out)
{
    for (int t = FGMM_F32; t <= FGMM_I8; t++)
        if (strcmp(text, fgmm_dtype_name((fgmm_dtype)t)) == 0) {
            *out = (fgmm_dtype)t;
            return true;
        }
    return false;
}

static bool parse_weights(const char *text, bool *zipf)
{
    *zipf = strcmp(text, "zipf") == 0;
    return *zipf || strcmp(text, "equal") == 0;
}

/* One key=value. *known = false for a key there is not; the result tells whether the value reads. */
static bool parse_pair(synth_spec *spec, const char *key, const char *value, bool *known)
{
    const struct {
        const char *key;
        int64_t *count;
        double *real;
    } numbers[] = {{"n", &spec->n, NULL},           {"d", &spec->d, NULL},
                   {"k", &spec->k, NULL},           {"seed", &spec->seed, NULL},
                   {"spread", NULL, &spec->spread}, {"anisotropy", NULL, &spec->anisotropy},
                   {"noise", NULL, &spec->noise}};
    *known = true;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (strcmp(key, numbers[i].key) == 0)
            return numbers[i].count ? fgmm__parse_count(value, numbers[i].count)
                                    : fgmm__parse_real(value, numbers[i].real);
    if (strcmp(key, "dtype") == 0)
        return parse_dtype(value, &spec->dtype);
    if (strcmp(key, "weights") == 0)
        return parse_weights(value, &spec->zipf);
    *known = false;
    return false;
}

static fgmm_status check_spec(const synth_spec *spec, const char *source)
{
    const char *fault = NULL;
    if (spec->n < 1)
        fault = "n (rows) must be given and at least 1";
    else if (spec->d < 1 || spec->d > FGMM_MAX_DIM)
        fault = "d (dimension) must be given, from 1 to 1048576";
    else if (spec->k < 1 || spec->k > INT32_MAX)
        fault = "k (components) must be given, from 1 to 2147483647";
    else if (spec->seed < 0)
        fault = "seed must not be negative";
    else if (!(spec->anisotropy >= 1 && spec->anisotropy <= 1e6))
        fault = "anisotropy must lie between 1 and 1e6";
    else if (!(spec->spread >= 0 && spec->spread * sqrt(spec->anisotropy) <= FGMM_SYNTH_MAX_SPREAD))
        fault = "spread must not be negative, and spread times the square root of anisotropy at most 100";
    else if (!(spec->noise >= 0 && spec->noise <= 1))
        fault = "noise is a share of the rows, from 0 to 1";
    return fault ? fgmm__fail(FGMM_ERR_INPUT, "%s: %s", source, fault) : FGMM_OK;
}

static fgmm_status parse_spec(const char *source, synth_spec *out)
{
    fgmm_status status = FGMM_OK;
    synth_spec spec = {.seed = 0, .dtype = FGMM_F32, .spread = 0.1, .anisotropy = 1};
    char *text = strdup(source + strlen(PREFIX)), *rest = text;
    if (text == NULL)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "out of memory while reading %s", source);
    for (char *pair; (pair = strsep(&rest, ",")) != NULL;) {
        char *value = strchr(pair, '=');
        bool known;
        if (value == NULL)
            FGMM_FAIL(FGMM_ERR_INPUT, "%s: '%s' is not key=value", source, pair);
        *value++ = '\0';
        if (!parse_pair(&spec, pair, value, &known))
            FGMM_FAIL(FGMM_ERR_INPUT,
                      known
                          ? "%s: %s=%s cannot be read"
                          : "%s: no key %s (=%s); there are n d k seed dtype spread anisotropy weights noise",
                      source, pair, value);
    }
    FGMM_TRY(check_spec(&spec, source));
    *out = spec;
cleanup:
    free(text);
    return status;
}

static uint64_t spec_fingerprint(const synth_spec *spec)
{
    double reals[] = {spec->spread, spec->anisotropy, spec->noise};
    int64_t words[9] = {spec->n, spec->d, spec->k, spec->seed, spec->dtype, spec->zipf};
    memcpy(words + 6, reals, sizeof reals);
    return XXH3_64bits(words, sizeof words);
}

/* ---- the tables ---- */

static fgmm_status make_means(synth_reader *reader)
{
    fgmm_status status = FGMM_OK;
    uint64_t seed = (uint64_t)reader->spec.seed;
    size_t cells = (size_t)reader->spec.k * (size_t)reader->spec.d;
    FGMM_ALLOC(reader->means, cells, "the means of a synth: mixture");
    for (size_t i = 0; i < cells; i++)
        reader->means[i] = fgmm__synth_uniform(fgmm__philox(seed, FGMM_RNG_SYNTH_MEAN, i, 0).word[0]);
    reader->mixture.means = reader->means;
cleanup:
    return status;
}

static fgmm_status make_scales(synth_reader *reader)
{
    fgmm_status status = FGMM_OK;
    const synth_spec *spec = &reader->spec;
    int64_t range[2];
    fgmm__synth_scale_range(spec->spread, spec->anisotropy, range);
    reader->mixture.scale = (int32_t)range[0];
    if (range[0] == range[1])
        return FGMM_OK;
    size_t cells = (size_t)spec->k * (size_t)spec->d;
    FGMM_ALLOC(reader->scales, cells, "the scales of a synth: mixture");
    for (size_t i = 0; i < cells; i++)
        reader->scales[i] = fgmm__synth_scale((uint64_t)spec->seed, i, range);
    reader->mixture.scales = reader->scales;
cleanup:
    return status;
}

/* A share of 2^64, in [0, 2^64-1]. */
static uint64_t share_of_bits(double share)
{
    return share >= 1 ? UINT64_MAX : (uint64_t)(share * 0x1p64);
}

/* Component i has a weight proportional to 1 / (i + 1). */
static fgmm_status make_thresholds(synth_reader *reader)
{
    fgmm_status status = FGMM_OK;
    double total = 0, sum = 0;
    int32_t k = (int32_t)reader->spec.k;
    FGMM_ALLOC(reader->thresholds, k, "the weights of a synth: mixture");
    for (int32_t i = 0; i < k; i++)
        total += 1.0 / (i + 1.0);
    for (int32_t i = 0; i < k; i++) {
        sum += 1.0 / (i + 1.0);
        reader->thresholds[i] = share_of_bits(sum / total);
    }
    reader->mixture.thresholds = reader->thresholds;
cleanup:
    return status;
}

static fgmm_status make_tables(synth_reader *reader)
{
    fgmm_status status = FGMM_OK;
    double gib = (double)reader->spec.k * (double)reader->spec.d * sizeof(int32_t) / (1 << 30);
    if (gib > 0.25)
        fgmm__detail("%s: making a table of means of %.2f GiB", reader->base.source, gib);
    reader->mixture = (fgmm_synth_mixture){.seed = (uint64_t)reader->spec.seed,
                                           .k = (int32_t)reader->spec.k,
                                           .dim = reader->base.dim,
                                           .noise = share_of_bits(reader->spec.noise)};
    FGMM_TRY(make_means(reader));
    FGMM_TRY(make_scales(reader));
    if (reader->spec.zipf)
        FGMM_TRY(make_thresholds(reader));
cleanup:
    return status;
}

/* The lock orders the tables before their first use in every thread. */
static fgmm_status get_mixture(const fgmm_reader *base, const fgmm_synth_mixture **out)
{
    synth_reader *reader = (synth_reader *)base;
    fgmm_status status = FGMM_OK;
    pthread_mutex_lock(&reader->lock);
    if (!reader->ready) {
        free(reader->means);
        free(reader->scales);
        free(reader->thresholds);
        reader->means = reader->scales = NULL;
        reader->thresholds = NULL;
        status = make_tables(reader);
        reader->ready = status == FGMM_OK;
    }
    pthread_mutex_unlock(&reader->lock);
    *out = &reader->mixture;
    return status;
}

/* ---- rows ---- */

enum { BLOCK_PAIRS = 64 };

/* The noise of dimensions 2 * first to 2 * (first + pairs) of a row: what takes the time, so it is done many
 * at once. Noise of a component is normal, rows that are all noise are uniform. */
FGMM_CLONES static void make_noise(uint64_t seed, uint64_t row, bool uniform, uint32_t first, uint32_t pairs,
                                   int32_t *restrict noise)
{
    uint32_t word[4][BLOCK_PAIRS];
#pragma omp simd
    for (uint32_t i = 0; i < pairs; i++) {
        fgmm_philox p = fgmm__philox(seed, FGMM_RNG_SYNTH_NOISE, row, first + i);
        word[0][i] = p.word[0];
        word[1][i] = p.word[1];
        word[2][i] = p.word[2];
        word[3][i] = p.word[3];
    }
    for (uint32_t i = 0; i < pairs && uniform; i++) {
        noise[2 * i] = fgmm__synth_uniform(word[0][i]);
        noise[2 * i + 1] = fgmm__synth_uniform(word[2][i]);
    }
    for (uint32_t i = 0; i < pairs && !uniform; i++) {
        noise[2 * i] = fgmm__synth_normal(word[0][i], word[1][i]);
        noise[2 * i + 1] = fgmm__synth_normal(word[2][i], word[3][i]);
    }
}

/* Noise to values of component `component` in place, for n dimensions from `first` on. */
FGMM_CLONES static void place_noise(const fgmm_synth_mixture *mixture, int32_t component, int32_t first,
                                    int32_t n, int32_t *restrict values)
{
    int64_t place = (int64_t)component * mixture->dim + first;
    const int32_t *restrict means = mixture->means + place;
    if (mixture->scales != NULL) {
        const int32_t *restrict scales = mixture->scales + place;
#pragma omp simd
        for (int32_t d = 0; d < n; d++)
            values[d] = fgmm__synth_value(means[d], scales[d], values[d]);
    } else {
#pragma omp simd
        for (int32_t d = 0; d < n; d++)
            values[d] = fgmm__synth_value(means[d], mixture->scale, values[d]);
    }
}

FGMM_CLONES static void store(fgmm_dtype dtype, const int32_t *restrict values, int32_t n, char *restrict out)
{
    float single[2 * BLOCK_PAIRS];
    switch (dtype) {
    case FGMM_F32:
    case FGMM_F16:
#pragma omp simd
        for (int32_t d = 0; d < n; d++)
            single[d] = fgmm__synth_f32(values[d]);
        fgmm__from_f32(dtype, single, (size_t)n, out);
        break;
    case FGMM_U8:
#pragma omp simd
        for (int32_t d = 0; d < n; d++)
            ((uint8_t *)out)[d] = fgmm__synth_u8(values[d]);
        break;
    case FGMM_I8:
#pragma omp simd
        for (int32_t d = 0; d < n; d++)
            ((int8_t *)out)[d] = fgmm__synth_i8(values[d]);
        break;
    }
}

static fgmm_status synth_read(const fgmm_reader *reader, int64_t begin, int64_t end, void *out)
{
    const fgmm_synth_mixture *mixture;
    fgmm_status status = get_mixture(reader, &mixture);
    if (status != FGMM_OK)
        return status;
    const int32_t dim = reader->dim;
    const size_t cell = fgmm_dtype_bytes(reader->dtype);
    char *to = out;
    for (int64_t r = begin; r < end; r++) {
        int32_t component = fgmm__synth_choose(mixture, (uint64_t)r), values[2 * BLOCK_PAIRS];
        for (int32_t first = 0; first < dim; first += 2 * BLOCK_PAIRS) {
            int32_t n = dim - first < 2 * BLOCK_PAIRS ? dim - first : 2 * BLOCK_PAIRS;
            make_noise(mixture->seed, (uint64_t)r, component < 0, (uint32_t)first / 2, (uint32_t)(n + 1) / 2,
                       values);
            if (component >= 0)
                place_noise(mixture, component, first, n, values);
            store(reader->dtype, values, n, to);
            to += (size_t)n * cell;
        }
    }
    return FGMM_OK;
}

fgmm_status fgmm__synth_component(const fgmm_reader *reader, int64_t row, int32_t *component)
{
    const fgmm_synth_mixture *mixture;
    if (reader->type != &fgmm__synth_format)
        return fgmm__fail(FGMM_ERR_INPUT, "%s: only rows of a synth: spec know their component",
                          reader->source);
    fgmm_status status = get_mixture(reader, &mixture);
    if (status == FGMM_OK)
        *component = fgmm__synth_choose(mixture, (uint64_t)row);
    return status;
}

static fgmm_status synth_open(const char *source, fgmm_reader **out)
{
    fgmm_status status = FGMM_OK;
    synth_reader *reader = NULL;
    synth_spec spec;
    FGMM_TRY(parse_spec(source, &spec));
    FGMM_ALLOC(reader, 1, "a reader");
    reader->base = (fgmm_reader){
        .rows = spec.n, .dim = (int32_t)spec.d, .dtype = spec.dtype, .fingerprint = spec_fingerprint(&spec)};
    reader->spec = spec;
    pthread_mutex_init(&reader->lock, NULL);
    *out = &reader->base;
cleanup:
    return status;
}

static void synth_close(fgmm_reader *base)
{
    synth_reader *reader = (synth_reader *)base;
    pthread_mutex_destroy(&reader->lock);
    free(reader->means);
    free(reader->scales);
    free(reader->thresholds);
    free(reader);
}

const fgmm_reader_type fgmm__synth_format = {"synth", synth_probe, synth_open, synth_read, synth_close};
