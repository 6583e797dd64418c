/* One stretch of one tensor: read it from every model's file, and accumulate the Gram matrix of {base, deltas}.
 *
 * Everything is float64 from the first subtraction on: a bf16, fp16 or fp32 value, the difference of two of them and
 * the sums are as exact as numpy's in float64. What makes it fast is that nothing leaves the cache: `pread` fills a
 * small block for each model, slices of the block become float64 deltas that fit the first-level cache, and the
 * products of three rows with three rows are accumulated in registers.
 *
 * GNU C vectors only: gcc and clang compile them for whatever machine they run on.
 */
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

enum dtype { BF16, F16, F32, F64 };
static const int item_bytes[] = {2, 2, 4, 8};

typedef double vec __attribute__((vector_size(32)));
typedef float half_vec __attribute__((vector_size(16)));
typedef uint16_t u16x4 __attribute__((vector_size(8)));
typedef uint32_t u32x4 __attribute__((vector_size(16)));
enum { LANES = 4, SLICE_DOUBLES = 3072 }; /* 24 KiB of deltas in the first-level cache */

/* fp16 has no vector type that every compiler knows. Its exponent and mantissa, moved to their place in an fp32, give a
 * value that is too small by 2^112 (subnormals included); infinities and NaNs need their exponent set by hand. */
static inline half_vec from_f16(u32x4 h) {
    u32x4 magnitude = (h & 0x7fff) << 13, sign = (h & 0x8000) << 16;
    half_vec value = (half_vec)magnitude * 0x1p112f;
    u32x4 special = (u32x4)((h & 0x7c00) == 0x7c00);
    return (half_vec)((((u32x4)value) & ~special) | ((magnitude | 0x7f800000) & special) | sign);
}

static inline __attribute__((always_inline)) vec load(const unsigned char *from, enum dtype dtype) {
    if (dtype == F64) {
        vec x;
        memcpy(&x, from, sizeof x);
        return x;
    }
    if (dtype == F32) {
        half_vec x;
        memcpy(&x, from, sizeof x);
        return __builtin_convertvector(x, vec);
    }
    u16x4 x;
    memcpy(&x, from, sizeof x);
    u32x4 wide = __builtin_convertvector(x, u32x4);
    return __builtin_convertvector(dtype == BF16 ? (half_vec)(wide << 16) : from_f16(wide), vec);
}

/* delta[0..count) = x - base, or x itself without a base; adds to `sum`. `count` is a multiple of LANES. */
static inline __attribute__((always_inline)) void widen_as(
    enum dtype dtype, const unsigned char *x, const vec *base, vec *delta, long count, vec *sum) {
    vec total = *sum;
    int step = item_bytes[dtype] * LANES;
    for (long k = 0; k < count / LANES; k++) {
        vec d = load(x + k * step, dtype);
        if (base) d -= base[k];
        delta[k] = d;
        total += d;
    }
    *sum = total;
}

static void widen(
    enum dtype dtype, const unsigned char *x, const vec *base, vec *delta, long count, vec *sum) {
    switch (dtype) {
        case BF16: widen_as(BF16, x, base, delta, count, sum); break;
        case F16: widen_as(F16, x, base, delta, count, sum); break;
        case F32: widen_as(F32, x, base, delta, count, sum); break;
        case F64: widen_as(F64, x, base, delta, count, sum); break;
    }
}

/* products[i][j] += row i . row j of ROWS x COLUMNS rows; `stride` vectors lie between rows, `wide` between products. */
static inline __attribute__((always_inline)) void tile_of(
    int rows, int columns, const vec *a, const vec *b, long stride, long length, vec *products, long wide) {
    vec sum[3][3];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) sum[i][j] = products[i * wide + j];
    for (long k = 0; k < length; k++)
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < columns; j++) sum[i][j] += a[i * stride + k] * b[j * stride + k];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) products[i * wide + j] = sum[i][j];
}

/* The same for a triangle of three rows with themselves, in two halves so that sums need not wait for each other. */
static void triangle(const vec *a, long stride, long length, vec *products, long wide) {
    const vec *b = a + stride, *c = b + stride;
    vec aa = products[0], ba = products[wide], bb = products[wide + 1];
    vec ca = products[2 * wide], cb = products[2 * wide + 1], cc = products[2 * wide + 2];
    vec zero = {0, 0, 0, 0}, aa2 = zero, ba2 = zero, bb2 = zero, ca2 = zero, cb2 = zero, cc2 = zero;
    long k = 0;
    for (; k + 1 < length; k += 2) {
        aa += a[k] * a[k], ba += b[k] * a[k], bb += b[k] * b[k];
        ca += c[k] * a[k], cb += c[k] * b[k], cc += c[k] * c[k];
        aa2 += a[k + 1] * a[k + 1], ba2 += b[k + 1] * a[k + 1], bb2 += b[k + 1] * b[k + 1];
        ca2 += c[k + 1] * a[k + 1], cb2 += c[k + 1] * b[k + 1], cc2 += c[k + 1] * c[k + 1];
    }
    if (k < length) {
        aa += a[k] * a[k], ba += b[k] * a[k], bb += b[k] * b[k];
        ca += c[k] * a[k], cb += c[k] * b[k], cc += c[k] * c[k];
    }
    products[0] = aa + aa2, products[wide] = ba + ba2, products[wide + 1] = bb + bb2;
    products[2 * wide] = ca + ca2, products[2 * wide + 1] = cb + cb2, products[2 * wide + 2] = cc + cc2;
}

static void tile(
    int rows, int columns, const vec *a, const vec *b, long stride, long length, vec *products, long wide) {
    switch (rows * 4 + columns) {
        case 4 + 1: tile_of(1, 1, a, b, stride, length, products, wide); break;
        case 4 + 2: tile_of(1, 2, a, b, stride, length, products, wide); break;
        case 4 + 3: tile_of(1, 3, a, b, stride, length, products, wide); break;
        case 8 + 1: tile_of(2, 1, a, b, stride, length, products, wide); break;
        case 8 + 2: tile_of(2, 2, a, b, stride, length, products, wide); break;
        case 8 + 3: tile_of(2, 3, a, b, stride, length, products, wide); break;
        case 12 + 1: tile_of(3, 1, a, b, stride, length, products, wide); break;
        case 12 + 2: tile_of(3, 2, a, b, stride, length, products, wide); break;
        case 12 + 3: tile_of(3, 3, a, b, stride, length, products, wide); break;
    }
}

static int least(int a, int b) { return a < b ? a : b; }

/* All products of the rows from `first` on with the rows up to themselves, three by three. */
static void multiply(int rows, int first, const vec *deltas, long stride, long length, vec *products) {
    for (int i = first; i < rows; i += 3) {
        int high = least(3, rows - i);
        for (int j = 0; j < i; j += 3)
            tile(high, least(3, i - j), deltas + i * stride, deltas + j * stride, stride, length,
                 products + i * rows + j, rows);
        if (high == 3) triangle(deltas + i * stride, stride, length, products + i * rows + i, rows);
        else tile(high, high, deltas + i * stride, deltas + i * stride, stride, length, products + i * rows + i, rows);
    }
}

static int read_all(int file, unsigned char *into, size_t bytes, off_t offset) {
    while (bytes) {
        ssize_t got = pread(file, into, bytes, offset);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return 0;
        into += got, bytes -= got, offset += got;
    }
    return 1;
}

/* Adds to gram [rows, rows] (rows from `first` on, lower triangle) and to sums [rows] the `count` elements that begin at
 * `offset[r]` of `file[r]`, row 0 being the base. `raw` has room for `block` elements of every row, one row behind the
 * other; `block` is a multiple of 4. `scratch` has room for SLICE_DOUBLES + 4 * (rows + 3) * rows doubles, 32-byte aligned.
 * Returns 0, or 1 + the row whose file ended early or could not be read. */
int kinship_stretch(
    int rows, int first, const int *file, const int64_t *offset, const int *dtype, int64_t count, int64_t block,
    unsigned char *raw, double *scratch, double *gram, double *sums) {
    vec *products = (vec *)scratch, *totals = products + rows * rows, *deltas = totals + rows;
    long slice = rows < SLICE_DOUBLES / 8 ? (SLICE_DOUBLES / rows) & ~7L : 8, stride = slice / LANES;
    memset(scratch, 0, sizeof(vec) * rows * (rows + 1));
    for (int64_t done = 0; done < count; done += block) {
        int64_t here = count - done < block ? count - done : block;
        unsigned char *row = raw;
        for (int r = 0; r < rows; r++) {
            size_t size = item_bytes[dtype[r]];
            if (!read_all(file[r], row, here * size, offset[r] + done * size)) return 1 + r;
            memset(row + here * size, 0, (-here & (LANES - 1)) * size); /* zeros add nothing */
            row += block * size;
        }
        for (int64_t begin = 0; begin < here; begin += slice) {
            long length = here - begin < slice ? (here - begin + LANES - 1) & ~(LANES - 1L) : slice;
            row = raw;
            for (int r = 0; r < rows; r++) {
                size_t size = item_bytes[dtype[r]];
                widen(dtype[r], row + begin * size, r ? deltas : 0, deltas + r * stride, length, totals + r);
                row += block * size;
            }
            multiply(rows, first, deltas, stride, length / LANES, products);
        }
    }
    for (int r = 0; r < rows; r++) {
        for (int lane = 0; lane < LANES; lane++) sums[r] += totals[r][lane];
        for (int c = 0; c < rows; c++)
            for (int lane = 0; lane < LANES; lane++) gram[r * rows + c] += products[r * rows + c][lane];
    }
    return 0;
}
