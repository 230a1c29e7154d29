#include "ivf/poisson.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

enum {
    MOST = FGMM_POISSON_FEATURES,
    ITERATIONS = 100,
    HALVINGS = 40,
    LARGEST_EXPONENT = 40 /* of an expected count: beyond it a step was far too long */
};

typedef struct {
    const float *x;
    const int32_t *counts;
    int64_t n;
    double ridge;
} problem;

/* Gradient and negated Hessian of the penalised log-likelihood; index n_features stands for the intercept. */
typedef struct {
    double value, gradient[MOST + 1], hessian[MOST + 1][MOST + 1];
} local_shape;

static void standardise(const fgmm_poisson *poisson, const float *x, double *z)
{
    for (int32_t j = 0; j < poisson->n_features; j++)
        z[j] = ((double)x[j] - poisson->mean[j]) / poisson->scale[j];
}

static double exponent(const fgmm_poisson *poisson, const double *z)
{
    double sum = poisson->intercept;
    for (int32_t j = 0; j < poisson->n_features; j++)
        sum += poisson->weights[j] * z[j];
    return sum < LARGEST_EXPONENT ? sum : LARGEST_EXPONENT;
}

double fgmm__poisson_expect(const fgmm_poisson *poisson, const float *x)
{
    double z[MOST];
    standardise(poisson, x, z);
    return exp(exponent(poisson, z));
}

/* Means and standard deviations of the features, and the intercept that fits them alone. */
static fgmm_status begin(const problem *p, fgmm_poisson *poisson)
{
    int32_t m = poisson->n_features;
    int64_t rows = 0, total = 0;
    double sum[MOST] = {0}, squares[MOST] = {0};
    for (int64_t i = 0; i < p->n; i++) {
        if (p->counts[i] < 0)
            continue;
        rows++;
        total += p->counts[i];
        for (int32_t j = 0; j < m; j++)
            sum[j] += (double)p->x[i * m + j];
    }
    if (rows == 0)
        return fgmm__fail(FGMM_ERR_INPUT, "a regression has no rows to learn from");
    for (int32_t j = 0; j < m; j++)
        poisson->mean[j] = sum[j] / (double)rows;
    for (int64_t i = 0; i < p->n; i++)
        for (int32_t j = 0; p->counts[i] >= 0 && j < m; j++) {
            double away = (double)p->x[i * m + j] - poisson->mean[j];
            squares[j] += away * away;
        }
    for (int32_t j = 0; j < m; j++) {
        double deviation = sqrt(squares[j] / (double)rows);
        poisson->scale[j] = deviation > 1e-12 * (1 + fabs(poisson->mean[j])) ? deviation : 1;
    }
    poisson->intercept = log(((double)total + 0.5) / (double)rows); /* half a count: there may be none */
    return FGMM_OK;
}

static double log_likelihood(const problem *p, const fgmm_poisson *poisson)
{
    int32_t m = poisson->n_features;
    double sum = 0, z[MOST];
    for (int64_t i = 0; i < p->n; i++) {
        if (p->counts[i] < 0)
            continue;
        standardise(poisson, p->x + i * m, z);
        double e = exponent(poisson, z);
        sum += p->counts[i] * e - exp(e);
    }
    for (int32_t j = 0; j < m; j++)
        sum -= p->ridge / 2 * poisson->weights[j] * poisson->weights[j];
    return sum;
}

static void differentiate(const problem *p, const fgmm_poisson *poisson, local_shape *at)
{
    int32_t m = poisson->n_features;
    double z[MOST + 1];
    memset(at, 0, sizeof *at);
    z[m] = 1;
    for (int64_t i = 0; i < p->n; i++) {
        if (p->counts[i] < 0)
            continue;
        standardise(poisson, p->x + i * m, z);
        double expected = exp(exponent(poisson, z));
        for (int32_t j = 0; j <= m; j++) {
            at->gradient[j] += (p->counts[i] - expected) * z[j];
            for (int32_t l = 0; l <= j; l++)
                at->hessian[j][l] += expected * z[j] * z[l];
        }
    }
    for (int32_t j = 0; j < m; j++) {
        at->gradient[j] -= p->ridge * poisson->weights[j];
        at->hessian[j][j] += p->ridge;
    }
    at->hessian[m][m] += 1e-9 * (1 + at->hessian[m][m]);
}

/* Solves hessian * step = gradient by Cholesky, in place; only the lower triangle is read. */
static bool solve(local_shape *at, int32_t n, double *step)
{
    for (int32_t j = 0; j < n; j++) {
        for (int32_t l = 0; l <= j; l++) {
            double sum = at->hessian[j][l];
            for (int32_t i = 0; i < l; i++)
                sum -= at->hessian[j][i] * at->hessian[l][i];
            if (l == j && !(sum > 0))
                return false;
            at->hessian[j][l] = l == j ? sqrt(sum) : sum / at->hessian[l][l];
        }
    }
    for (int32_t j = 0; j < n; j++) {
        step[j] = at->gradient[j];
        for (int32_t i = 0; i < j; i++)
            step[j] -= at->hessian[j][i] * step[i];
        step[j] /= at->hessian[j][j];
    }
    for (int32_t j = n - 1; j >= 0; j--) {
        for (int32_t i = j + 1; i < n; i++)
            step[j] -= at->hessian[i][j] * step[i];
        step[j] /= at->hessian[j][j];
    }
    return true;
}

/* The longest of step, step/2, step/4 ... that does not lower the likelihood; false when there is none. */
static bool move(const problem *p, fgmm_poisson *poisson, const double *step, double *value)
{
    fgmm_poisson from = *poisson;
    int32_t m = poisson->n_features;
    double share = 1;
    for (int halving = 0; halving < HALVINGS; halving++, share /= 2) {
        for (int32_t j = 0; j < m; j++)
            poisson->weights[j] = from.weights[j] + share * step[j];
        poisson->intercept = from.intercept + share * step[m];
        double reached = log_likelihood(p, poisson);
        if (reached >= *value) {
            *value = reached;
            return true;
        }
    }
    *poisson = from;
    return false;
}

fgmm_status fgmm__poisson_fit(const float *x, const int32_t *counts, int64_t n, int32_t n_features,
                              double ridge, fgmm_poisson *out)
{
    fgmm_status status = FGMM_OK;
    problem p = {x, counts, n, ridge};
    local_shape at;
    double step[MOST + 1];
    *out = (fgmm_poisson){.n_features = n_features};
    FGMM_TRY(begin(&p, out));
    double value = log_likelihood(&p, out);
    for (int iteration = 0; iteration < ITERATIONS; iteration++) {
        double before = value;
        differentiate(&p, out, &at);
        if (!solve(&at, n_features + 1, step) || !move(&p, out, step, &value) ||
            value - before <= 1e-12 * (1 + fabs(value)))
            break;
    }
cleanup:
    return status;
}
