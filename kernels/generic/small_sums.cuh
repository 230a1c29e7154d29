/* A warp's sums over its rows by component, for small.cu.
 *
 * Contributions are whole numbers (roundings to the grid), so a product of float64 tensor cores adds them up
 * without an error as long as no sum passes 2^53: components x rows, ones where a row belongs to a component,
 * by rows x words. 32 rows, one a lane, are staged in shared memory and added at one time; what comes out
 * goes on to 64-bit integers. */
#ifndef FGMM_GENERIC_SMALL_SUMS_CUH
#define FGMM_GENERIC_SMALL_SUMS_CUH

#include "kernels/generic/fixed.cuh"
#include "kernels/ptx/mma.cuh"

namespace fgmm
{

/* Adding 1.5 * 2^52 rounds a value of at most 2^51 and leaves it in the low bits, as an integer. */
constexpr double kMagic = 0x1.8p52;
constexpr unsigned long long kMagicBits = 0x4338000000000000ull;

/* The rounding of a * b, a whole number. */
__device__ __forceinline__ double rounded_product(double a, double b)
{
    return fma(a, b, kMagic) - kMagic;
}

/* Sum of a value a row in two limbs, as split() cuts it. */
struct RoundedLimbs {
    unsigned long long high = 0, low = 0;
    int count = 0;

    __device__ __forceinline__ void add(double scaled, double one)
    {
        const double rounded = scaled + kMagic, rest = scaled - (rounded - kMagic);
        high += static_cast<unsigned long long>(__double_as_longlong(rounded));
        low += static_cast<unsigned long long>(__double_as_longlong(fma(rest, one, kMagic)));
        count++;
    }
    __device__ __forceinline__ Limbs sum() const
    {
        return {static_cast<int64_t>(high - count * kMagicBits),
                static_cast<int64_t>(low - count * kMagicBits)};
    }
};

/* Words of a component: n, s, then high and low of each second moment. kGroups: of 16 components. */
template <int kDims, bool kDiagMoment, int kGroupsOf16> struct SmallShape {
    static constexpr int kGroups = kGroupsOf16;
    static constexpr int kMoments = kDiagMoment ? kDims : 1;
    static constexpr int kWords = 1 + kDims + 2 * kMoments;
    static constexpr int kTiles = (kWords + 7) / 8; /* of 8 words */
    static constexpr int kPitch = 8 * kTiles;       /* words of a component in the block's sums */
    static constexpr int kSums = 16 * kGroups * kPitch;
};

constexpr int kNoComponent = 0xff;

/* A tile of 32 rows' words, and their components. Row r is lane r. */
struct SmallStage {
    /* Doubles from word to word: the lanes of a quarter-warp read 16 bytes each, of four pairs of rows and
     * two words, which then lie in different banks. */
    static constexpr int kPitch = 40;
    alignas(16) double word[8][kPitch];
    alignas(8) uint8_t component[kWarp]; /* of row 8j + 2t + e at 8t + 2j + e, so that a lane reads those of
                                            its rows at one time */

    __device__ __forceinline__ uint8_t &component_of(int row)
    {
        return component[row % 8 / 2 * 8 + row / 8 * 2 + row % 2];
    }
};

/* Lane 4g + t has components g and g + 8 of each group and words 2t and 2t + 1 of each tile. */
template <typename Shape> struct SmallSums {
    using Words = double[Shape::kWords];
    int64_t sum[Shape::kGroups][Shape::kTiles][4] = {};

    /* kCount rows a lane, at most 4, in as many stages. fine: the grid has more than 46 bits, so that the
     * sums of 128 rows may pass 2^53, and those of 8 do not. */
    template <int kCount>
    __device__ __forceinline__ void add(SmallStage *stages, const Words *word, const int *component, int k,
                                        bool fine)
    {
        static_assert(kCount * kWarp <= 128, "their sums are exact");
        const int lane = threadIdx.x % kWarp;
#pragma unroll
        for (int tile = 0; tile < Shape::kTiles; tile++) {
#pragma unroll
            for (int n = 0; n < kCount; n++) {
#pragma unroll
                for (int w = 0; w < 8; w++) /* what lies in words past the last is added up, and unused */
                    if (8 * tile + w < Shape::kWords)
                        stages[n].word[w][lane] = word[n][8 * tile + w];
                stages[n].component_of(lane) = static_cast<uint8_t>(component[n]);
            }
            __syncwarp();
            if (!fine) {
                multiply<kCount, false>(stages, tile, k);
            } else {
#pragma unroll 1
                for (int n = 0; n < kCount; n++)
                    multiply<1, true>(stages + n, tile, k);
            }
            __syncwarp();
        }
    }

    /* To the block's sums, in shared memory. */
    __device__ __forceinline__ void flush(unsigned long long *to) const
    {
        const int lane = threadIdx.x % kWarp;
#pragma unroll
        for (int group = 0; group < Shape::kGroups; group++)
#pragma unroll
            for (int tile = 0; tile < Shape::kTiles; tile++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int component = 16 * group + lane / 4 + i / 2 * 8,
                              word = 8 * tile + lane % 4 * 2 + i % 2;
                    if (sum[group][tile][i] != 0)
                        atomicAdd(&to[component * Shape::kPitch + word],
                                  static_cast<unsigned long long>(sum[group][tile][i]));
                }
    }

  private:
    template <int kCount, bool kFine>
    __device__ __forceinline__ void multiply(const SmallStage *stages, int tile, int k)
    {
        const int g = threadIdx.x % kWarp / 4, t = threadIdx.x % 4;
#pragma unroll
        for (int group = 0; group < Shape::kGroups; group++) {
            if (group > 0 && 16 * group >= k)
                break;
            /* In each byte zero where the row belongs to g, or to g + 8. */
            const uint32_t first = (16 * group + g) * 0x01010101u, second = first + 0x08080808u;
            double c[2][4] = {}; /* two, so that a product need not wait for the one before it */
#pragma unroll
            for (int n = 0; n < kCount; n++) {
                const uint2 components = *reinterpret_cast<const uint2 *>(&stages[n].component[8 * t]);
#pragma unroll
                for (int j = 0; j < 4; j++) { /* rows 8j + 2t and 8j + 2t + 1 */
                    const uint32_t four = j < 2 ? components.x : components.y;
                    const uint32_t even = 0xffu << (j % 2 * 16), odd = even << 8;
                    const double2 b = *reinterpret_cast<const double2 *>(&stages[n].word[g][8 * j + 2 * t]);
                    ptx::mma_f64(c[j % 2], one_if_zero((four ^ first) & even),
                                 one_if_zero((four ^ second) & even), one_if_zero((four ^ first) & odd),
                                 one_if_zero((four ^ second) & odd), b.x, b.y);
                    if (kFine)
                        take(sum[group][tile], c[j % 2]);
                }
            }
            if constexpr (!kFine) {
#pragma unroll
                for (int i = 0; i < 4; i++)
                    c[0][i] += c[1][i];
                take(sum[group][tile], c[0]);
            }
        }
    }

    __device__ static __forceinline__ double one_if_zero(uint32_t value)
    {
        return __hiloint2double(value == 0 ? 0x3ff00000 : 0, 0);
    }

    __device__ static __forceinline__ void take(int64_t (&to)[4], double (&c)[4])
    {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            to[i] += __double2ll_rn(c[i]);
            c[i] = 0;
        }
    }
};

} // namespace fgmm

#endif
