/* The arithmetic of gram.c on deltas of type REAL, written once and included for float and for double.
 *
 * Expects REAL, NAME(x), SCALE, the DTYPES of weights and a `load` of one of two vectors. A `vec` is VECTOR bytes: LANES
 * elements. Products and totals are kept as double whatever REAL is: a float sum runs over one slice only before it is
 * added to them.
 */
#define LANES ((long)(VECTOR / sizeof(REAL)))
#define INLINE static inline __attribute__((always_inline))

typedef REAL NAME(vec) __attribute__((vector_size(VECTOR)));
#define vec NAME(vec)

/* The lanes as double, those of a wide vector added up to four. */
INLINE f64x4 NAME(widened)(vec lanes) {
    enum { PARTS = VECTOR / sizeof(REAL) / 4 };
    REAL part[PARTS][4];
    f64x4 sum[PARTS];
    memcpy(part, &lanes, sizeof lanes);
    for (int i = 0; i < PARTS; i++) sum[i] = (f64x4){part[i][0], part[i][1], part[i][2], part[i][3]};
    for (int half = PARTS / 2; half; half /= 2)
        for (int i = 0; i < half; i++) sum[i] += sum[i + half];
    return sum[0];
}

/* The deltas of the `group` (1 to TILE) rows from `row` on, all of one dtype: SCALE * (x - base), or x for the base itself,
 * which `leads` the first group. Adds their sums to `totals`, and their products with themselves to `products`, `wide` to a
 * row, while a delta is still in a register; `stride` vectors lie between rows of deltas. TILE rows and no more, since a
 * sum that has to leave its register sets the pace of the whole loop; of one or two rows there are two sums each, in turn,
 * since else the processor would wait for each addition before the next. */
INLINE void NAME(enter_of)(
    enum dtype dtype, int leads, int row, int group, const unsigned char *const *x, vec *deltas, long stride,
    long vectors, f64x4 *totals, f64x4 *products, long wide) {
    long step = item_bytes[dtype] * LANES;
    int sets = group < 3 ? 2 : 1;
    vec sum[2][TILE] = {{{0}}}, product[2][TILE][TILE] = {{{{0}}}}, *into = deltas + row * stride;
    for (long k = 0; k < vectors; k += 2)
        UNROLLED for (int n = 0; n < 2; n++) {
            vec d[TILE], base = deltas[k + n];
            UNROLLED for (int r = 0; r < group; r++) {
                d[r] = NAME(load)(x[r] + k * step, dtype, n);
                if (leads && r == 0) base = d[r];
                else d[r] = (d[r] - base) * SCALE;
                into[r * stride + k + n] = d[r];
                sum[n % sets][r] += d[r];
            }
            UNROLLED for (int i = 0; i < group; i++)
                UNROLLED for (int j = 0; j <= i; j++) product[n % sets][i][j] += d[i] * d[j];
        }
    UNROLLED for (int i = 0; i < group; i++) {
        totals[row + i] += NAME(widened)(sum[0][i] + sum[1][i]);
        UNROLLED for (int j = 0; j <= i; j++)
            products[(row + i) * wide + row + j] += NAME(widened)(product[0][i][j] + product[1][i][j]);
    }
}

static void NAME(enter)(
    enum dtype dtype, int row, int group, const unsigned char *const *x, vec *deltas, long stride, long vectors,
    f64x4 *totals, f64x4 *products, long wide) {
#define ENTER(dtype, leads, group) \
    case (dtype * 2 + leads) * 8 + group: \
        if (group <= TILE) \
            NAME(enter_of)(dtype, leads, leads ? 0 : row, group, x, deltas, stride, vectors, totals, products, wide); \
        break
#define GROUPS(dtype) \
    ENTER(dtype, 1, 1); ENTER(dtype, 1, 2); ENTER(dtype, 1, 3); ENTER(dtype, 1, 4); ENTER(dtype, 1, 5); \
    ENTER(dtype, 0, 1); ENTER(dtype, 0, 2); ENTER(dtype, 0, 3); ENTER(dtype, 0, 4); ENTER(dtype, 0, 5)
    switch ((dtype * 2 + (row == 0)) * 8 + group) {
        DTYPES(GROUPS);
    }
#undef GROUPS
#undef ENTER
}

/* products[i][j] += row i of a . row j of b, for `rows` x `columns` of them. */
INLINE void NAME(tile_of)(
    int rows, int columns, const vec *a, const vec *b, long stride, long vectors, f64x4 *products, long wide) {
    int sets = rows * columns < 9 ? 2 : 1; /* of sums, as above */
    vec sum[2][TILE][TILE] = {{{{0}}}};
    for (long k = 0; k < vectors; k += 2)
        UNROLLED for (int n = 0; n < 2; n++) {
            vec x[TILE];
            UNROLLED for (int i = 0; i < rows; i++) {
                x[i] = a[i * stride + k + n];
                IN_REGISTER(x[i]);
            }
            UNROLLED for (int j = 0; j < columns; j++) {
                vec y = b[j * stride + k + n];
                IN_REGISTER(y);
                UNROLLED for (int i = 0; i < rows; i++) sum[n % sets][i][j] += x[i] * y;
            }
        }
    UNROLLED for (int i = 0; i < rows; i++)
        UNROLLED for (int j = 0; j < columns; j++)
            products[i * wide + j] += NAME(widened)(sum[0][i][j] + sum[1][i][j]);
}

static void NAME(tile)(
    int rows, int columns, const vec *a, const vec *b, long stride, long vectors, f64x4 *products, long wide) {
#define ROW(r) CASE(r, 1); CASE(r, 2); CASE(r, 3); CASE(r, 4); CASE(r, 5)
#define CASE(r, c) \
    case r * 8 + c: if (r <= TILE && c <= TILE) NAME(tile_of)(r, c, a, b, stride, vectors, products, wide); break
    switch (rows * 8 + columns) {
        ROW(1); ROW(2); ROW(3); ROW(4); ROW(5);
    }
#undef CASE
#undef ROW
}

/* The block of `count` elements of every row that lies at `raw[row]`: at most TILE rows of one dtype at
 * a time, as evenly as that goes, with themselves and then with all before them. Pairs of rows below `first` may be left out. */
static void NAME(block)(
    int rows, int first, const int *dtype, int64_t count, const unsigned char *const *raw, void *scratch,
    f64x4 *products, f64x4 *totals) {
    vec *deltas = scratch;
    long slice = slice_of(rows, sizeof(REAL)), stride = slice / LANES;
    for (int64_t begin = 0; begin < count; begin += slice) {
        long here = count - begin < slice ? (count - begin + PAD - 1) / PAD * PAD : slice, vectors = here / LANES;
        for (int i = 0, group; i < rows; i += group) {
            const unsigned char *x[TILE];
            int left = rows - i, tiles = (left + TILE - 1) / TILE, most = (left + tiles - 1) / tiles;
            for (group = 0; group < most && i + group < rows && dtype[i + group] == dtype[i]; group++)
                x[group] = raw[i + group] + begin * item_bytes[dtype[i]];
            NAME(enter)(dtype[i], i, group, x, deltas, stride, vectors, totals, products, rows);
            for (int j = 0; j < i && i + group > first; j += TILE)
                NAME(tile)(group, least(TILE, i - j), deltas + i * stride, deltas + j * stride, stride, vectors,
                           products + i * rows + j, rows);
        }
    }
}

#undef vec
#undef LANES
#undef INLINE
