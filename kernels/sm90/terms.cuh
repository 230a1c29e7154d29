/* What makes the sums bounds: a component's extra columns, and the widths between upper and lower bounds. */
#ifndef FGMM_SM90_TERMS_CUH
#define FGMM_SM90_TERMS_CUH

#include <cuda_fp16.h>
#include "kernels/sm90/columns.cuh"

namespace fgmm
{

struct Terms {
    __half column[8];
    float width[3]; /* the sum is at most width[0] + width[1] p + width[2] |y| above g l; p is |y|^2, or |z|
                       where squares have columns of their own */
};

/* The columns b_d = g F_d^2 / (s_d^2 kSquareScale) that meet the squares z_d = kSquareScale y_d^2. */
struct Squares {
    double norm;     /* of b */
    double sum;      /* of all b_d */
    double residual; /* norm of the difference between b and what is stored of it */
    double excess;   /* norm of what was cut off b before */
};

/* A component in the units of the sums. */
struct Scaled {
    double offset;    /* g offset - g F |m|^2 */
    double magnitude; /* the absolute values of these two, added */
    double factor;    /* g F / (s^2 kSquareUnit) */
    double excess;    /* g / s^2 times what F was cut by */
    double blind;     /* g times what was cut off the factor, of the mean: (x - m)^2 <= 2 x^2 + 2 m^2 */
    double norm;      /* of 2 F m g / s */
    double residual;  /* norm of the difference between that and its fp16 rounding */
    double keep;      /* g keep_bits */
    Squares squares;  /* diagonal forms, whose factor and excess are zero */
};

/* Roundings, with n = |y|, N = c.norm, R = c.residual.
 *
 * Product: a row's value in fp16 is off by 2^-11 of itself, or 2^-25 below the normal range, and x is an fp32
 * difference, 2^-24 of itself. So the product is off by at most error * n + (N + R) * tiny, with
 * error = R (1 + 2^-10) + N (2^-11 + 2^-22).
 *
 * Sums: wgmma truncates; `depth` terms, each step at most 2^-22 of the sum of absolute terms, which is |A|
 * (and a thousandth of it, for its parts) + (N + R) (1.001 n + tiny) + F |y|^2 + E n. That is tau = depth
 * 2^-22 times each, and so a part of A's slack, of F's rounding down, and of E.
 *
 * |y|^2 is added up in fp32 from squares of fp32 values, in 31 steps at most: below 2^-19.
 *
 * Squares: all their terms have one sign, so roundings that make them smaller keep the bound. z in fp16 is
 * rounded down, and loses at most 2^-10 + 2^-20 of itself, or 2^-23 below the normal range; b is lowered by
 * tau, for the truncation of its own terms, and rounded down. The width has what both lost, by |z|.
 *
 * Widths are the same once more, upwards, and what the columns were rounded by. They also cover, with 2^-20
 * of each term, the fp32 operations that make a threshold of the largest sum; kMargin is for their own
 * evaluation. */
__device__ inline double truncation(int depth)
{
    return depth * 0x1p-22;
}

__device__ inline Terms terms_of(const Scaled &c, int depth)
{
    const double tau = truncation(depth), tiny = 0x1p-25 * sqrt(static_cast<double>(depth));
    const double both = c.norm + c.residual;
    Terms t = {};

    const double least = 0x1p-10; /* more than the parts of A can be off below fp16's normal range */
    const double offset =
        c.offset + 1.01 * tau * (fabs(c.offset) + least) + 2 * both * tiny + 0x1p-48 * c.magnitude;
    double rest = offset;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        t.column[i] = __double2half(rest / kOnes[i]);
        rest -= static_cast<double>(__half2float(t.column[i])) * kOnes[i];
    }
    t.column[2] = __float2half_ru(__double2float_ru(rest / kOnes[2]));
    rest -= static_cast<double>(__half2float(t.column[2])) * kOnes[2]; /* <= 0: what it was rounded up by */
    const double rounded = offset - rest;

    const double lowered = c.factor * (1 - tau - 0x1p-19);
    const __half f1 = __float2half_rd(__double2float_rd(lowered));
    const __half f2 = __float2half_rd(__double2float_rd(lowered - static_cast<double>(__half2float(f1))));
    const double low = static_cast<double>(__half2float(f2)),
                 held = static_cast<double>(__half2float(f1)) + low;
    t.column[3] = t.column[5] = __hneg(f1);
    t.column[4] = __hneg(f2);

    const double error = c.residual * (1 + 0x1p-10) + c.norm * (0x1p-11 + 0x1p-22) + 1.01 * tau * both;
    t.column[6] = __float2half_ru(__double2float_ru(error * (1 + 2 * tau)));
    const double raised = static_cast<double>(__half2float(t.column[6]));

    constexpr double kFloat = 0x1p-20, kMargin = 1.002;
    /* held * 2^-24 and raised * 2^-23: q2 and |y| below fp16's normal range. */
    const double w0 = rounded - c.offset + (tau + kFloat) * (fabs(rounded) + least) + 2 * both * tiny +
                      held * 0x1p-24 + raised * 0x1p-23 + 2 * c.blind + 0x1p-23 * c.squares.sum;
    /* q1 + q2 loses 2^-20 of |y|^2, and that is known to 2^-20; the column q2 f2 is left out. */
    const double w1 =
        kSquareUnit * (c.factor * (1 + kFloat) - held * (1 - tau) * (1 - 0x1p-18) + 0x1p-10 * low) +
        2 * c.excess;
    const double lost =
        c.squares.residual + c.squares.norm * (0x1p-10 + 0x1p-20 + tau + kFloat) + 2 * c.squares.excess;
    const double w2 = error + kFloat * both + raised * (1 + 0x1p-8);
    t.width[0] = __double2float_ru(kMargin * w0 + c.keep * (1 + kFloat));
    t.width[1] = __double2float_ru(kMargin * (w1 + lost));
    t.width[2] = __double2float_ru(kMargin * w2);
    return t;
}

} // namespace fgmm

#endif
