/* Columns of the screens for full components: vectors in fp16, what they may be off by, and the constants
 * that make an upper bound of their sums. */
#ifndef FGMM_SM90_FULL_COLUMNS_CUH
#define FGMM_SM90_FULL_COLUMNS_CUH

#include <cuda_fp16.h>
#include "kernels/generic/warp.cuh"
#include "kernels/sm90/columns.cuh"
#include "kernels/sm90/traits.cuh"

namespace fgmm
{

/* A column of the product and what it may be off by: at most slope |y| + constant. */
struct Column {
    double scale;           /* on the exact vector, a power of two */
    double slope, constant; /* in units of the sums */
};

/* A warp: a column of a record. value(i): the exact vector, off by at most `blur` in norm; most: the largest
 * value that is to have its scale; shift_exact: its product with the scaled mean, and reach that mean's norm;
 * put(i, half): where it goes; extra: [3], the first extra columns. depth: of the product.
 *
 * A row's value in fp16 is off by 2^-11 of itself, or 2^-25 below the normal range, and was an fp32
 * difference, 2^-24 of itself. wgmma truncates: `depth` terms, each step at most 2^-22 of the sum of absolute
 * terms. */
template <typename F, typename P>
__device__ Column write_column(int dim, int depth, double most, double blur, double shift_exact, double reach,
                               __half *extra, F value, P put)
{
    const int lane = threadIdx.x % kWarp;
    const double tau = depth * 0x1p-22;
    Column column = {most > 0 ? exp2(3 - floor(log2(most))) : 1.0, 0, 0}; /* the largest to [8, 16) */
    double lost = 0, kept = 0;
    for (int i = lane; i < dim; i += kWarp) {
        const double exact = column.scale * value(i);
        const __half rounded = __double2half(exact);
        const double held = static_cast<double>(__half2float(rounded));
        put(i, rounded);
        lost += (exact - held) * (exact - held);
        kept += held * held;
    }
    lost = sqrt(warp_sum(lost));
    kept = sqrt(warp_sum(kept));
    const double shift = column.scale * shift_exact;
    double rest = -shift;
    for (int part = 0; part < 3; part++) {
        const __half held = __double2half(rest / kFullOnes[part]);
        rest -= static_cast<double>(__half2float(held)) * kFullOnes[part];
        if (lane == 0)
            extra[part] = held;
    }
    column.slope = (lost + column.scale * blur) * (1 + 0x1p-9) + kept * (0x1p-11 * 1.002 + 1.01 * tau);
    column.constant = fabs(rest) + 1.01 * tau * fabs(shift) +
                      1.01 * kept * 0x1p-25 * sqrt(static_cast<double>(dim)) + column.scale * blur * reach;
    return column;
}

struct Parts {
    /* c over unit^2; what squares are to be divided by; what part of P c stands for */
    double eigenvalue, gram, theta, unit;
    double offset, mean_square; /* |m|^2 */
    double scale;               /* of rows */
    double slope2, constant2;   /* sums over the columns of squares */
    Column linear;
};

/* The constants of a component: weight, alpha, gamma, beta. The widths of the columns' errors enter by
 *     |e + s|^2 >= (1 - epsilon) |s|^2 - (1 / epsilon - 1) |e|^2,
 * and |e|^2 <= 2 slope^2 |y|^2 + 2 constant^2. fp32 evaluation is off by a few 2^-24 of the terms: kSlack of
 * each covers it. All columns but the linear one have one scale. */
__device__ float4 constants_of(const Parts &p, double column_scale)
{
    constexpr double kEpsilon = 0.125, kSlack = 0x1p-17;
    const double s = p.scale, per_square = p.unit / (column_scale * s);
    const double share = (1 - p.theta) / p.gram * per_square * per_square;
    const double c = p.theta * p.eigenvalue * p.unit * p.unit;
    const double weight = share * (1 - kEpsilon), spoilt = share * (1 / kEpsilon - 1);
    const double nu = p.linear.scale * s, mean = sqrt(p.mean_square);
    /* of x.m: slope |y| <= skew (|m|^2 + |x|^2) / 2 */
    const double skew = mean > 0 ? p.linear.slope * s / mean : 0.0;
    const double alpha = 2 * c / nu;
    const double pull = c / (s * s), push = spoilt * 2 * p.slope2 + alpha * skew / (2 * s * s);
    const double beta = p.offset - c * p.mean_square + spoilt * 2 * p.constant2 +
                        alpha * (skew * p.mean_square / 2 + p.linear.constant);
    const double magnitude = fabs(p.offset) + 3 * c * p.mean_square + spoilt * 2 * p.constant2 +
                             alpha * (skew * p.mean_square / 2 + p.linear.constant);
    float4 out;
    out.x = __double2float_rd(fmin(weight, 0x1p60) * (1 - kSlack));
    out.y = static_cast<float>(alpha);
    out.z = __double2float_rd(pull - push - kSlack * (3 * pull + push));
    out.w = __double2float_ru(beta + kSlack * magnitude);
    return out;
}

} // namespace fgmm

#endif
