/* One stretch of one tensor: read it from every model's file, and accumulate the Gram matrix of {base, deltas}.
 *
 * What makes it fast is that nothing leaves the cache: `pread` fills a small block for each model, slices of the block
 * become deltas, and the products of a few rows with a few rows are summed in registers.
 *
 * What makes it right: in double, everything is as exact as numpy's float64, and that is what fp32 and fp64 weights
 * get. Deltas of bf16 and fp16 weights fit a float, and a float sum runs over at most 64 products (in each
 * lane of a vector) before it is added to a double, which costs a relative 1e-7 of that short sum, at random: so
 * the caller may have long stretches done in float (`coarse`), several times as fast. At random, since deltas are multiplied
 * by FLOAT_SCALE first: weights of 16 bits lie on a grid, squares of whole numbers leave small remainders more often
 * than large ones (1 or 0 of 4), and sums of them would all be rounded the same way, down.
 *
 * GNU C vectors only: gcc and clang compile them for whatever machine they run on.
 */
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

enum dtype { BF16, F16, F32, F64 };
static const int item_bytes[] = {2, 2, 4, 8};

/* Vectors of VECTOR bytes, as wide as the machine has them, and products of TILE rows with TILE rows: as many sums as it has
 * registers for. The deltas of all rows fit the first-level cache, or the second where vectors are so wide that fewer and longer
 * slices are worth more. */
#ifdef __AVX512F__
enum { VECTOR = 64, TILE = 5, SLICE_BYTES = 512 << 10 };
#else
enum { VECTOR = 32, TILE = 3, SLICE_BYTES = 24 << 10 };
#endif
enum { PAD = VECTOR / 2 };         /* elements; a multiple of two vectors of any type */
enum { SLICE_MOST = 16 * VECTOR }; /* elements a row: a float sum runs over 64 products */
enum { ROOM = 64 };                /* bytes by which a row may be moved */
/* What is read at a time, of all models and of each at least: enough to make a call of the kernel's worth while, and little
 * enough to be in the cache still when it is multiplied. */
enum { READ_BYTES = 2 << 20, READ_LEAST = 64 << 10 };
#define FLOAT_SCALE 1.3591409f   /* a number of 24 bits without a pattern */

/* A vector that is used several times is to be loaded once: compilers like to load it again with each operation. */
#ifdef __AVX__
#define IN_REGISTER(x) __asm__("" : "+v"(x))
#else
#define IN_REGISTER(x)
#endif

/* Of loops of a few turns, which are known when they are compiled. */
#define UNROLLED _Pragma("GCC unroll 8")

static int least(int a, int b) { return a < b ? a : b; }

/* Elements of each row in a slice: a multiple of PAD, at least one. */
static long slice_of(int rows, int size) {
    long fitting = SLICE_BYTES / size / rows / PAD * PAD;
    return fitting < PAD ? PAD : fitting < SLICE_MOST ? fitting : SLICE_MOST;
}

/* A vector's worth of float (s) and of double (d), and narrower ones as they become that. */
typedef uint16_t u16d __attribute__((vector_size(VECTOR / 4)));
typedef uint32_t u32d __attribute__((vector_size(VECTOR / 2)));
typedef uint32_t u32s __attribute__((vector_size(VECTOR)));
typedef float f32d __attribute__((vector_size(VECTOR / 2)));
typedef float f32s __attribute__((vector_size(VECTOR)));
typedef double f64v __attribute__((vector_size(VECTOR)));
typedef double f64x4 __attribute__((vector_size(32)));

/* fp16 (in the low half of each u32) has no vector type that every compiler knows. Its exponent and mantissa, moved to
 * their place in an fp32, give a value that is too small by 2^112 (subnormals included); infinities and NaNs need their
 * exponent set by hand. */
#define FROM_F16(h, u32, f32)                                                                  \
    ({                                                                                         \
        u32 magnitude = (h & 0x7fff) << 13, special = (u32)((h & 0x7c00) == 0x7c00);           \
        u32 value = (u32)((f32)magnitude * 0x1p112f);                                          \
        (f32)((value & ~special) | ((magnitude | 0x7f800000) & special) | (h & 0x8000) << 16); \
    })

/* Of the elements of two bytes that fill a vector, those at even places (n = 0) or at odd ones. Sums do not mind the order,
 * and two values in one word part with a shift and a mask. */
static inline __attribute__((always_inline)) f32s float_load(const unsigned char *from, enum dtype dtype, int n) {
    u32s pairs;
    memcpy(&pairs, from, sizeof pairs);
    if (dtype == BF16) return n ? (f32s)(pairs & 0xffff0000) : (f32s)(pairs << 16);
    u32s half = n ? pairs >> 16 : pairs & 0xffff;
    return FROM_F16(half, u32s, f32s);
}

static inline __attribute__((always_inline)) f64v double_load(const unsigned char *from, enum dtype dtype, int n) {
    f64v x;
    f32d y;
    u16d z;
    from += n * (VECTOR / 8) * item_bytes[dtype];
    if (dtype == F64) return memcpy(&x, from, sizeof x), x;
    if (dtype == F32) return memcpy(&y, from, sizeof y), __builtin_convertvector(y, f64v);
    memcpy(&z, from, sizeof z);
    u32d wide = __builtin_convertvector(z, u32d);
    return __builtin_convertvector(dtype == BF16 ? (f32d)(wide << 16) : FROM_F16(wide, u32d, f32d), f64v);
}

#define REAL float
#define NAME(x) float_##x
#define SCALE FLOAT_SCALE
#define DTYPES(of) of(BF16); of(F16)
#include "gram_of.h"
#undef REAL
#undef NAME
#undef SCALE
#undef DTYPES
#define REAL double
#define NAME(x) double_##x
#define SCALE 1
#define DTYPES(of) of(BF16); of(F16); of(F32); of(F64)
#include "gram_of.h"

static double across(f64x4 lanes) { return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]); }

static int read_all(int file, unsigned char *into, size_t bytes, off_t offset) {
    while (bytes) {
        ssize_t got = pread(file, into, bytes, offset);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return 0;
        into += got, bytes -= got, offset += got;
    }
    return 1;
}

/* Bytes that `raw` must have, aligned to 64: a block of every row, and room to move each. */
int64_t kinship_raw(int rows) {
    int64_t least = (int64_t)rows * READ_LEAST;
    return (least > READ_BYTES ? least : READ_BYTES) + (int64_t)rows * ROOM;
}

/* Bytes that `scratch` must have, aligned to 64: products, totals, and a slice of deltas, whose size is rounded for each type. */
int64_t kinship_scratch(int rows) {
    int64_t narrow = slice_of(rows, sizeof(float)) * sizeof(float), wide = slice_of(rows, sizeof(double)) * sizeof(double);
    return (int64_t)sizeof(f64x4) * rows * (rows + 1) + rows * (narrow > wide ? narrow : wide);
}

/* Elements of each row in a block: a multiple of SLICE_MOST, so that it begins as aligned as the tensor does. */
static int64_t block_of(int rows, const int *dtype) {
    int64_t bytes = kinship_raw(rows) - (int64_t)rows * ROOM, element = 0;
    for (int r = 0; r < rows; r++) element += item_bytes[dtype[r]];
    return bytes / element / SLICE_MOST * SLICE_MOST;
}

/* Where in its room a row is read to. Many processors copy at a fifth of their speed when the target lies a few bytes beyond the
 * source within a page; successive blocks of a row are multiples of 1024 bytes apart. */
static unsigned char *apart(unsigned char *room, off_t source) {
    uintptr_t ahead = ((uintptr_t)room - (uintptr_t)source) % 1024;
    return 0 < ahead && ahead < ROOM ? room + ROOM : room;
}

/* Adds to gram [rows, rows] (rows from `first` on, lower triangle) and to sums [rows] the `count` elements that begin
 * at `offset[r]` of `file[r]`, row 0 being the base; in float if `coarse`, which takes dtypes of 16 bits. `raw` and `scratch`
 * are as large as said above; `raws` holds a pointer for each row. Returns 0, or 1 + the row whose file ended early or could
 * not be read. */
int kinship_stretch(
    int rows, int first, int coarse, const int *file, const int64_t *offset, const int *dtype, int64_t count,
    unsigned char *raw, const unsigned char **raws, void *scratch, double *gram, double *sums) {
    f64x4 *products = scratch, *totals = products + (int64_t)rows * rows;
    int64_t block = block_of(rows, dtype);
    memset(scratch, 0, sizeof(f64x4) * rows * (rows + 1));
    for (int64_t done = 0; done < count; done += block) {
        int64_t here = count - done < block ? count - done : block;
        unsigned char *room = raw;
        for (int r = 0; r < rows; r++) {
            int64_t size = item_bytes[dtype[r]];
            unsigned char *row = apart(room, offset[r]);
            if (!read_all(file[r], row, here * size, offset[r] + done * size)) return 1 + r;
            memset(row + here * size, 0, (PAD - here % PAD) % PAD * size); /* zeros add nothing */
            raws[r] = row;
            room += block * size + ROOM;
        }
        (coarse ? float_block : double_block)(rows, first, dtype, here, raws, totals + rows, products, totals);
    }
    double scale = coarse ? FLOAT_SCALE : 1;
    for (int r = 0; r < rows; r++) {
        double of_row = r ? scale : 1;
        sums[r] += across(totals[r]) / of_row;
        for (int c = 0; c < rows; c++) gram[r * rows + c] += across(products[r * rows + c]) / (c ? of_row * scale : of_row);
    }
    return 0;
}
