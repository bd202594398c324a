// exp and log over arrays, in vectors of the target's registers. Private to the files that compute with them.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>
#ifdef __AVX__ // which the first processors with conversions of F16 have, and not AVX2
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

// GCC's and Clang's own vectors, as long as the target's registers
#if defined(__AVX512F__)
static constexpr size_t WIDTH = 16;
#elif defined(__AVX__)
static constexpr size_t WIDTH = 8;
#else
static constexpr size_t WIDTH = 4;
#endif
typedef float    f32x __attribute__((vector_size(4 * WIDTH)));
typedef int32_t  i32x __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t u32x __attribute__((vector_size(4 * WIDTH)));
typedef double   f64x __attribute__((vector_size(4 * WIDTH)));

static constexpr size_t BLOCK = 4096; // float sums are folded into a double this often
static constexpr float  INF   = std::numeric_limits<float>::infinity();

static inline f32x load(const float * x) {
    f32x v;
    memcpy(&v, x, sizeof(v));
    return v;
}

// the last n < WIDTH of an array; fill stands in for the rest
static inline f32x load_tail(const float * x, size_t n, float fill) {
    f32x v = fill - f32x {};
    memcpy(&v, x, n * sizeof(float));
    return v;
}

// Numbers of two bytes, each of which is a float too.
struct bf16 {
    uint16_t bits;
};

struct f16 {
    uint16_t bits;
};

static inline f32x load(const bf16 * x) {
    typedef uint16_t u16x __attribute__((vector_size(2 * WIDTH)));
    u16x v;
    memcpy(&v, x, sizeof(v));
    return (f32x) (__builtin_convertvector(v, u32x) << 16);
}

#if defined(__AVX512F__)
static inline f32x load(const f16 * x) {
    return (f32x) _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256((const __m256i *) x)); // GCC 12 warns of the plain one
}
#elif defined(__F16C__)
static inline f32x load(const f16 * x) {
    return (f32x) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) x));
}
#elif defined(__aarch64__)
static inline f32x load(const f16 * x) {
    return (f32x) vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t *) x)));
}
#endif

#if defined(__AVX512F__) || defined(__F16C__) || defined(__aarch64__)
static constexpr bool LOADS_F16 = true;
#else
static constexpr bool LOADS_F16 = false;
#endif

template <typename W>
static inline f32x load_tail(const W * x, size_t n) {
    W v[WIDTH] = {};
    memcpy(v, x, n * sizeof(W));
    return load(v);
}

static inline f32x zero_unless(i32x mask, f32x v) {
    return (f32x) (mask & (i32x) v);
}

static inline uint32_t float_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return bits;
}

static inline float float_from(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

static inline bool any(i32x mask) {
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i) mask, (__m512i) mask) != 0;
#elif defined(__AVX2__)
    return _mm256_movemask_ps((__m256) mask) != 0;
#else
    uint64_t words[WIDTH / 2];
    memcpy(words, &mask, sizeof(mask));
    uint64_t result = 0;
    for (const uint64_t word : words) {
        result |= word;
    }
    return result != 0;
#endif
}

template <typename T, size_t N>
struct vector_of {
    typedef T type __attribute__((vector_size(N * sizeof(T))));
};

// elements of a vector as a shorter one; through memory, all that is added up in it would be kept there
template <typename T, size_t N, size_t... I>
static inline typename vector_of<T, sizeof...(I)>::type part_of(typename vector_of<T, N>::type v, size_t first,
                                                                std::index_sequence<I...>) {
    const typename vector_of<T, sizeof...(I)>::type part = { v[first + I]... };
    return part;
}

// all of a vector by halves, whose dependent steps are fewer than one after the other
template <typename T, size_t N = WIDTH, typename F>
static inline T fold(typename vector_of<T, N>::type v, F && f) {
    if constexpr (N == 2) {
        return f(v[0], v[1]);
    } else {
        const auto half = std::make_index_sequence<N / 2>();
        return fold<T, N / 2>(f(part_of<T, N>(v, 0, half), part_of<T, N>(v, N / 2, half)), f);
    }
}

static inline float sum(f32x v) {
    return fold<float>(v, [](auto a, auto b) { return a + b; });
}

static inline int32_t sum(i32x v) {
    return fold<int32_t>(v, [](auto a, auto b) { return a + b; });
}

// The sum of floats as doubles, the same in any order unless they are of very different sizes.
struct double_sum {
    f64x low = {}, high = {};

    void add(f32x v) {
#if defined(__AVX512F__) // GCC 12 takes four conversions for two, and warns of what has no mask
        const __m256d a = _mm512_maskz_extractf64x4_pd(0xff, (__m512d) v, 0), b = _mm512_maskz_extractf64x4_pd(0xff, (__m512d) v, 1);
        low  += (f64x) _mm512_maskz_cvtps_pd(0xff, _mm256_castpd_ps(a));
        high += (f64x) _mm512_maskz_cvtps_pd(0xff, _mm256_castpd_ps(b));
#else
        const auto half = std::make_index_sequence<WIDTH / 2>();
        low  += __builtin_convertvector((part_of<float, WIDTH>(v, 0, half)), f64x);
        high += __builtin_convertvector((part_of<float, WIDTH>(v, WIDTH / 2, half)), f64x);
#endif
    }

    double total() const {
        return fold<double, WIDTH / 2>(low + high, [](auto a, auto b) { return a + b; });
    }
};

static inline float largest_of(f32x v) {
    return fold<float>(v, [](auto a, auto b) { return a > b ? a : b; });
}

// Puts those of v whose mask is set, of four bytes each, behind one another at to, which has room for all, and returns how many
// they are. Which ones nobody foresees: a branch for each would be mispredicted.
static inline size_t append(i32x mask, f32x v, void * to) {
#ifdef __AVX512F__
    const __mmask16 set = _mm512_cmplt_epi32_mask((__m512i) mask, _mm512_setzero_si512());
    _mm512_storeu_ps(to, _mm512_maskz_compress_ps(set, (__m512) v));
    return (size_t) __builtin_popcount(set);
#elif defined(__AVX2__) && defined(__BMI2__)
    const unsigned set  = (unsigned) _mm256_movemask_ps((__m256) mask);
    const uint64_t from = _pext_u64(0x0706050403020100, _pdep_u64(set, 0x0101010101010101) * 0xff); // of each place, a byte
    const __m256i  each = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((int64_t) from));
    _mm256_storeu_ps((float *) to, _mm256_permutevar8x32_ps((__m256) v, each));
    return (size_t) __builtin_popcount(set);
#else
    if (!any(mask)) {
        return 0;
    }
    size_t n = 0;
    for (size_t j = 0; j < WIDTH; ++j) {
        memcpy((float *) to + n, (const float *) &v + j, sizeof(float));
        n += mask[j] != 0;
    }
    return n;
#endif
}

// exp(x) for x <= 0 to 2 ulp, 0 below -87, NaN for NaN. Cody-Waite reduction to |r| <= ln(2) / 2, and there 1 + r + r^2 p(r) with
// the polynomial of degree 4 whose largest relative error is the least.
static inline f32x exp_neg(f32x x) {
    const float round = 12582912.0f; // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
    const f32x low     = f32x {} - 87.0f;
    const i32x out     = x <= low; // NaN is not, and passes through
    const f32x clamped = out ? low : x;
    const f32x shifted = clamped * 1.44269504f + round;
    const f32x n       = shifted - round;
    const f32x r       = (clamped - n * 0.693145752f) - n * 1.42860677e-6f;
    f32x p = r * 0.00138145988f + 0.00836871658f;
    p = p * r + 0.041668389f;
    p = p * r + 0.166665211f;
    p = p * r + 0.49999994f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const u32x exponent = ((u32x) shifted - float_bits(round) + 127u) << 23;
    return zero_unless(~out, p * (f32x) exponent);
}

// ln(x) for positive, normal x, to 2 ulp. The mantissa in [sqrt(1/2), sqrt(2)) is 1 + f, and ln(1 + f) = f - f^2 / 2 + f^3 p(f)
// with the polynomial of degree 6 whose largest relative error is the least; a division would take longer.
static inline f32x log_pos(f32x x) {
    const i32x bits     = (i32x) x - (int32_t) 0x3f3504f3; // sqrt(1/2)
    const i32x exponent = bits >> 23;
    const f32x f = (f32x) ((i32x) x - (exponent << 23)) - 1.0f;
    f32x p = f * 0.0870035961f - 0.142674759f;
    p = p * f + 0.149147868f;
    p = p * f - 0.165775865f;
    p = p * f + 0.199630618f;
    p = p * f - 0.250013381f;
    p = p * f + 0.333339095f;
    const f32x e = __builtin_convertvector(exponent, f32x);
    return e * 0.693145752f + (f * f * (p * f - 0.5f) + (e * 1.42860677e-6f + f));
}

// y[0..k), the k largest so far in descending order, becomes the k largest of these and of x; NaN is none.
static inline void offer_all(const float * x, size_t n, float * y, size_t k) {
    const auto offer = [&](float v) {
        if (!(v > y[k - 1])) {
            return;
        }
        size_t i = k - 1;
        for (; i > 0 && y[i - 1] < v; --i) {
            y[i] = y[i - 1];
        }
        y[i] = v;
    };
    const size_t step = 4 * WIDTH; // of which mostly none is large
    size_t i = 0;
    for (; i + step <= n; i += step) {
        i32x larger = {};
        for (size_t j = i; j < i + step; j += WIDTH) {
            larger |= load(x + j) > y[k - 1];
        }
        if (any(larger)) {
            for (size_t j = i; j < i + step; ++j) {
                offer(x[j]);
            }
        }
    }
    for (; i < n; ++i) {
        offer(x[i]);
    }
}

// y[0..k) = the k largest of x in descending order, -inf where there are fewer
static inline void largest(const float * x, size_t n, float * y, size_t k) {
    std::fill_n(y, k, -INF);
    offer_all(x, n, y, k);
}

// calls f with all of x, WIDTH values at a time, and flush after every BLOCK of them
template <typename F, typename G>
static inline void for_each_vector(const float * x, size_t n, float fill, F && f, G && flush) {
    for (size_t begin = 0; begin < n; begin += BLOCK) {
        const size_t end = std::min(n, begin + BLOCK);
        size_t i = begin;
        for (; i + WIDTH <= end; i += WIDTH) {
            f(i, load(x + i));
        }
        if (i < end) {
            f(i, load_tail(x + i, end - i, fill));
        }
        flush();
    }
}

// the sum of f over all vectors of an array; f maps 0, which stands in for the rest of the last one, to 0
template <typename F>
static inline double sum_vectors(const float * x, size_t n, F && f) {
    double total = 0.0;
    f32x   part  = {};
    for_each_vector(x, n, 0.0f, [&](size_t, f32x v) {
        part += f(v);
    }, [&] {
        total += sum(part);
        part = f32x {};
    });
    return total;
}
