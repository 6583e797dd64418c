/* The arithmetic of gram.c on deltas of type REAL, written once and included for float and for double.
 *
 * Expects REAL, NAME(x), SCALE, the DTYPES of weights and a `load` of one of two vectors. A `vec` is 32 bytes: LANES
 * elements. Products and totals are kept as double whatever REAL is: a float sum runs over one slice only before it is
 * added to them.
 */
#define LANES ((long)(32 / sizeof(REAL)))
#define INLINE static inline __attribute__((always_inline))

typedef REAL NAME(vec) __attribute__((vector_size(32)));
#define vec NAME(vec)

/* The lanes as double, those of a float vector two by two. */
INLINE f64x4 NAME(widened)(vec lanes) {
    if (sizeof(REAL) == sizeof(double)) return (f64x4)lanes;
    f64x4 low = {lanes[0], lanes[1], lanes[2], lanes[3]};
    f64x4 high = {lanes[4 % LANES], lanes[5 % LANES], lanes[6 % LANES], lanes[7 % LANES]};
    return low + high;
}

/* The deltas of the `group` (1 to 3) rows from `row` on, all of one dtype: SCALE * (x - base), or x for the base itself,
 * which `leads` the first group. Adds their sums to `totals`, and their products with themselves to `products`, `wide` to a
 * row, while a delta is still in a register; `stride` vectors lie between rows of deltas. Three rows and no more, since a
 * sum that has to leave its register sets the pace of the whole loop; of fewer rows there are two sums each, in turn,
 * since else the processor would wait for each addition before the next. */
INLINE void NAME(enter_of)(
    enum dtype dtype, int leads, int row, int group, const unsigned char *const *x, vec *deltas, long stride,
    long vectors, f64x4 *totals, f64x4 *products, long wide) {
    long step = item_bytes[dtype] * LANES;
    int sets = group < 3 ? 2 : 1;
    vec sum[2][3] = {{{0}}}, product[2][3][3] = {{{{0}}}}, *into = deltas + row * stride;
    for (long k = 0; k < vectors; k += 2)
        for (int n = 0; n < 2; n++) {
            vec d[3], base = deltas[k + n];
            for (int r = 0; r < group; r++) {
                d[r] = NAME(load)(x[r] + k * step, dtype, n);
                if (leads && r == 0) base = d[r];
                else d[r] = (d[r] - base) * SCALE;
                into[r * stride + k + n] = d[r];
                sum[n % sets][r] += d[r];
            }
            for (int i = 0; i < group; i++)
                for (int j = 0; j <= i; j++) product[n % sets][i][j] += d[i] * d[j];
        }
    for (int i = 0; i < group; i++) {
        totals[row + i] += NAME(widened)(sum[0][i] + sum[1][i]);
        for (int j = 0; j <= i; j++)
            products[(row + i) * wide + row + j] += NAME(widened)(product[0][i][j] + product[1][i][j]);
    }
}

static void NAME(enter)(
    enum dtype dtype, int row, int group, const unsigned char *const *x, vec *deltas, long stride, long vectors,
    f64x4 *totals, f64x4 *products, long wide) {
#define ENTER(dtype, leads, group) \
    case (dtype * 2 + leads) * 4 + group: \
        NAME(enter_of)(dtype, leads, leads ? 0 : row, group, x, deltas, stride, vectors, totals, products, wide); break
#define GROUPS(dtype) \
    ENTER(dtype, 1, 1); ENTER(dtype, 1, 2); ENTER(dtype, 1, 3); ENTER(dtype, 0, 1); ENTER(dtype, 0, 2); ENTER(dtype, 0, 3)
    switch ((dtype * 2 + (row == 0)) * 4 + group) {
        DTYPES(GROUPS);
    }
#undef GROUPS
#undef ENTER
}

/* products[i][j] += row i of a . row j of b, for ROWS x COLUMNS of them. */
INLINE void NAME(tile_of)(
    int rows, int columns, const vec *a, const vec *b, long stride, long vectors, f64x4 *products, long wide) {
    int sets = rows * columns < 9 ? 2 : 1; /* of sums, as above */
    vec sum[2][3][3] = {{{{0}}}};
    for (long k = 0; k < vectors; k += 2)
        for (int n = 0; n < 2; n++) {
            vec x[3];
            for (int i = 0; i < rows; i++) {
                x[i] = a[i * stride + k + n];
                IN_REGISTER(x[i]);
            }
            for (int j = 0; j < columns; j++) {
                vec y = b[j * stride + k + n];
                IN_REGISTER(y);
                for (int i = 0; i < rows; i++) sum[n % sets][i][j] += x[i] * y;
            }
        }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) products[i * wide + j] += NAME(widened)(sum[0][i][j] + sum[1][i][j]);
}

static void NAME(tile)(
    int rows, int columns, const vec *a, const vec *b, long stride, long vectors, f64x4 *products, long wide) {
#define TILE(r, c) \
    case r * 4 + c: NAME(tile_of)(r, c, a, b, stride, vectors, products, wide); break
    switch (rows * 4 + columns) {
        TILE(1, 1); TILE(1, 2); TILE(1, 3);
        TILE(2, 1); TILE(2, 2); TILE(2, 3);
        TILE(3, 1); TILE(3, 2); TILE(3, 3);
    }
#undef TILE
}

/* The block of `count` elements of every row that lies at `raw[row]`: three rows of one dtype at a time, with themselves and
 * then with all before them. Pairs of rows below `first` may be left out. */
static void NAME(block)(
    int rows, int first, const int *dtype, int64_t count, const unsigned char *const *raw, void *scratch,
    f64x4 *products, f64x4 *totals) {
    vec *deltas = scratch;
    long slice = slice_of(rows, sizeof(REAL)), stride = slice / LANES;
    for (int64_t begin = 0; begin < count; begin += slice) {
        long here = count - begin < slice ? (count - begin + PAD - 1) / PAD * PAD : slice, vectors = here / LANES;
        for (int i = 0, group; i < rows; i += group) {
            const unsigned char *x[3];
            for (group = 0; group < 3 && i + group < rows && dtype[i + group] == dtype[i]; group++)
                x[group] = raw[i + group] + begin * item_bytes[dtype[i]];
            NAME(enter)(dtype[i], i, group, x, deltas, stride, vectors, totals, products, rows);
            for (int j = 0; j < i && i + group > first; j += 3)
                NAME(tile)(group, least(3, i - j), deltas + i * stride, deltas + j * stride, stride, vectors,
                           products + i * rows + j, rows);
        }
    }
}

#undef vec
#undef LANES
#undef INLINE
