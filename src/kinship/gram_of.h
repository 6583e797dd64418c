/* The arithmetic of gram.c on deltas of type REAL, written once and included for float and for double.
 *
 * Expects REAL, NAME(x), SCALE, and a `load` of two vectors. A `vec` is 32 bytes: LANES elements. Products and totals are kept as
 * double whatever REAL is: a float sum runs over one slice only before it is added to them.
 */
#define LANES ((long)(32 / sizeof(REAL)))
#define INLINE static inline __attribute__((always_inline))

typedef REAL NAME(vec) __attribute__((vector_size(32)));
#define vec NAME(vec)

/* The lanes as double, those of a float vector two by two. */
INLINE f64x4 NAME(widened)(vec lanes) {
    if (sizeof(REAL) == sizeof(double)) return (f64x4)lanes;
    f32x4 half[2];
    memcpy(half, &lanes, sizeof half);
    return __builtin_convertvector(half[0], f64x4) + __builtin_convertvector(half[1], f64x4);
}

/* delta[0..vectors) = SCALE * (x - base), or x itself without a base. Returns the sum. */
INLINE f64x4 NAME(widen_as)(enum dtype dtype, const unsigned char *x, const vec *base, vec *delta, long vectors) {
    long step = item_bytes[dtype] * LANES;
    vec even = {0}, odd = {0};
    for (long k = 0; k < vectors; k += 2) {
        vec a, b;
        NAME(load)(x + k * step, dtype, &a, &b);
        if (base) a = (a - base[k]) * SCALE, b = (b - base[k + 1]) * SCALE;
        delta[k] = a, delta[k + 1] = b;
        even += a, odd += b;
    }
    return NAME(widened)(even + odd);
}

static f64x4 NAME(widen)(enum dtype dtype, const unsigned char *x, const vec *base, vec *delta, long vectors) {
    switch (dtype) {
        case BF16: return NAME(widen_as)(BF16, x, base, delta, vectors);
        case F16: return NAME(widen_as)(F16, x, base, delta, vectors);
        case F32: return NAME(widen_as)(F32, x, base, delta, vectors);
        default: return NAME(widen_as)(F64, x, base, delta, vectors);
    }
}

/* products[i][j] += row i of a . row j of b, for ROWS x COLUMNS of them; `stride` vectors lie between rows, `wide`
 * products between theirs. Small enough to keep every sum in a register; the compiler unrolls it for each size. */
INLINE void NAME(tile_of)(
    int rows, int columns, const vec *a, const vec *b, long stride, long vectors, f64x4 *products, long wide) {
    vec sum[3][5] = {{{0}}};
    for (long k = 0; k < vectors; k++)
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < columns; j++) sum[i][j] += a[i * stride + k] * b[j * stride + k];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) products[i * wide + j] += NAME(widened)(sum[i][j]);
}

static void NAME(tile)(
    int rows, int columns, const vec *a, const vec *b, long stride, long vectors, f64x4 *products, long wide) {
#define TILE(r, c) \
    case r * 8 + c: NAME(tile_of)(r, c, a, b, stride, vectors, products, wide); break
    switch (rows * 8 + columns) {
        TILE(1, 1); TILE(1, 2); TILE(1, 3); TILE(1, 4); TILE(1, 5);
        TILE(2, 1); TILE(2, 2); TILE(2, 3); TILE(2, 4); TILE(2, 5);
        TILE(3, 3);
    }
#undef TILE
}

/* Three rows with themselves: half of a tile, with twice the sums so that none waits for its own last addition. */
static void NAME(triangle)(const vec *a, long stride, long vectors, f64x4 *products, long wide) {
    const vec *b = a + stride, *c = b + stride;
    vec aa[2] = {{0}}, ba[2] = {{0}}, bb[2] = {{0}}, ca[2] = {{0}}, cb[2] = {{0}}, cc[2] = {{0}};
    for (long k = 0; k < vectors; k += 2)
        for (int n = 0; n < 2; n++) {
            vec x = a[k + n], y = b[k + n], z = c[k + n];
            aa[n] += x * x, ba[n] += y * x, bb[n] += y * y, ca[n] += z * x, cb[n] += z * y, cc[n] += z * z;
        }
    products[0] += NAME(widened)(aa[0] + aa[1]);
    products[wide] += NAME(widened)(ba[0] + ba[1]);
    products[wide + 1] += NAME(widened)(bb[0] + bb[1]);
    products[2 * wide] += NAME(widened)(ca[0] + ca[1]);
    products[2 * wide + 1] += NAME(widened)(cb[0] + cb[1]);
    products[2 * wide + 2] += NAME(widened)(cc[0] + cc[1]);
}

/* All products of the rows from `first` on with the rows up to themselves: three rows at a time with three, and the one
 * or two rows that are left with five, so that ten sums or so are always under way. */
static void NAME(multiply)(int rows, int first, const vec *deltas, long stride, long vectors, f64x4 *products) {
    int i = first;
    for (; i + 3 <= rows; i += 3) {
        const vec *three = deltas + i * stride;
        int j = 0;
        for (; j + 3 <= i; j += 3)
            NAME(tile)(3, 3, three, deltas + j * stride, stride, vectors, products + i * rows + j, rows);
        for (int r = 0; j < i && r < 3; r++)
            NAME(tile)(1, i - j, three + r * stride, deltas + j * stride, stride, vectors,
                       products + (i + r) * rows + j, rows);
        NAME(triangle)(three, stride, vectors, products + i * rows + i, rows);
    }
    for (int j = 0; i < rows && j < rows; j += 5)
        NAME(tile)(rows - i, least(5, rows - j), deltas + i * stride, deltas + j * stride, stride, vectors,
                   products + i * rows + j, rows);
}

/* The block of `count` elements of every row that lies in `raw`, row after row with room for `block` elements each. */
static void NAME(block)(
    int rows, int first, const int *dtype, int64_t count, int64_t block, const unsigned char *raw, void *scratch,
    f64x4 *products, f64x4 *totals) {
    vec *deltas = scratch;
    long slice = slice_of(rows, sizeof(REAL)), stride = slice / LANES;
    for (int64_t begin = 0; begin < count; begin += slice) {
        long here = count - begin < slice ? (count - begin + PAD - 1) / PAD * PAD : slice;
        const unsigned char *row = raw;
        for (int r = 0; r < rows; r++) {
            long size = item_bytes[dtype[r]];
            totals[r] += NAME(widen)(dtype[r], row + begin * size, r ? deltas : 0, deltas + r * stride, here / LANES);
            row += block * size;
        }
        NAME(multiply)(rows, first, deltas, stride, here / LANES, products);
    }
}

#undef vec
#undef LANES
#undef INLINE
