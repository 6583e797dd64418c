/* The kernel under a compiler's sanitizers: every count of rows to MOST, every dtype, odd sizes and offsets, every array
 * exactly as large as the kernel says that it must be. What comes out is held against sums of the plainest kind. */
#include "../../src/kinship/gram.c"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { MOST = 130 };

static uint64_t state = 1;

static int64_t draw(int64_t below) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (int64_t)((state >> 33) % (uint64_t)below);
}

/* Writes a number of few bits, exact in every dtype. */
static void store(unsigned char *to, float value, enum dtype dtype) {
    uint32_t bits;
    double wide = value;
    memcpy(&bits, &value, sizeof bits);
    uint16_t bf16 = bits >> 16;
    uint16_t f16 = (bits >> 16 & 0x8000) | (value == 0 ? 0 : ((bits >> 23 & 0xff) - 127 + 15) << 10 | (bits >> 13 & 0x3ff));
    const void *from[] = {&bf16, &f16, &value, &wide};
    memcpy(to, from[dtype], item_bytes[dtype]);
}

static void *exactly(int64_t bytes) {
    void *room;
    if (posix_memalign(&room, 64, bytes)) abort();
    return room;
}

static double delta(const float *values, int64_t count, int row, int64_t i) {
    return row ? (double)values[row * count + i] - values[i] : values[i];
}

/* Of every row, its sum and its products with itself and with one other are right. */
static void check(
    int rows, int first, int coarse, int64_t count, const float *values, const double *gram, const double *sums) {
    for (int r = 0; r < rows; r++) {
        int others[] = {r, (int)draw(r + 1)};
        for (int k = 0; k < 2; k++) {
            int c = others[k];
            double sum = 0, product = 0, size = 0, other = 0;
            for (int64_t i = 0; i < count; i++) {
                double x = delta(values, count, r, i), y = delta(values, count, c, i);
                sum += x, product += x * y, size += x * x, other += y * y;
            }
            double allowed = (coarse ? 1e-5 : 1e-12) * sqrt(size * other);
            int wrong = fabs(sums[r] - sum) > (coarse ? 1e-5 : 1e-12) * sqrt(size * count);
            if (r >= first) wrong |= !(fabs(gram[r * rows + c] - product) <= allowed);
            if (wrong) {
                printf("%d rows from %d on, %d elements, coarse %d: row %d with %d gave %.17g and the sum %.17g, not %.17g and %.17g\n",
                       rows, first, (int)count, coarse, r, c, gram[r * rows + c], sums[r], product, sum);
                exit(1);
            }
        }
    }
}

/* One call on rows of these dtypes (`dtypes` of them in turn, at places in a file that are no multiple of anything); then one on
 * a file that ends within a row. */
static void run(int rows, int coarse, const enum dtype *dtypes, int kinds, int64_t count, unsigned char *raw) {
    FILE *stream = tmpfile();
    int *file = exactly(rows * sizeof *file), *dtype = exactly(rows * sizeof *dtype);
    int64_t *offset = exactly(rows * sizeof *offset), end = 0;
    float *values = exactly(rows * count * sizeof *values);
    for (int r = 0; r < rows; r++) {
        file[r] = fileno(stream), dtype[r] = dtypes[kinds > 1 ? draw(kinds) : 0], offset[r] = end + draw(200);
        int64_t size = item_bytes[dtype[r]];
        unsigned char *bytes = exactly(count * size);
        for (int64_t i = 0; i < count; i++) {
            float value = values[r * count + i] = (float)(draw(256) - 128) / 64;
            store(bytes + i * size, value, dtype[r]);
        }
        if (pwrite(file[r], bytes, count * size, offset[r]) != count * size) abort();
        free(bytes);
        end = offset[r] + count * size;
    }
    int first = draw(3) ? 0 : (int)draw(rows);
    const unsigned char **raws = exactly(rows * sizeof *raws);
    void *scratch = exactly(kinship_scratch(rows));
    double *gram = exactly((int64_t)rows * rows * sizeof *gram), *sums = exactly(rows * sizeof *sums);
    memset(gram, 0, (int64_t)rows * rows * sizeof *gram), memset(sums, 0, rows * sizeof *sums);
    if (kinship_stretch(rows, first, coarse, file, offset, dtype, count, raw, raws, scratch, gram, sums)) abort();
    check(rows, first, coarse, count, values, gram, sums);
    int last = (int)draw(rows);
    offset[last] = end - count * item_bytes[dtype[last]] + 1;
    if (kinship_stretch(rows, first, coarse, file, offset, dtype, count, raw, raws, scratch, gram, sums) != 1 + last) abort();
    void *all[] = {file, dtype, offset, values, raws, scratch, gram, sums};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    fclose(stream);
}

int main(int argc, char **argv) { /* with an argument: a few of the larger counts only */
    static const enum dtype every[] = {BF16, F16, F32, F64};
    for (int rows = 1; rows <= MOST; rows++) {
        if (argc > 1 && rows > 24 && rows % 13) continue;
        unsigned char *raw = exactly(kinship_raw(rows));
        for (int coarse = 0; coarse < 2; coarse++) {
            int kinds = coarse ? 2 : 4;
            int64_t slice = slice_of(rows, coarse ? sizeof(float) : sizeof(double));
            int64_t counts[] = {1 + draw(2 * PAD), slice - 1 + draw(3), slice + 1 + draw(2 * slice)};
            for (int of = 0; of <= kinds; of++)
                for (int i = 0; i < 3; i++)
                    run(rows, coarse, of < kinds ? every + of : every, of < kinds ? 1 : kinds, counts[i], raw);
        }
        for (int of = 0; rows % 6 == 2 && rows < 16 && of < 4; of++) /* more than one block */
            run(rows, of < 2, every + of, 1, kinship_raw(rows) / rows / item_bytes[of] + 7, raw);
        free(raw);
    }
    puts("sound");
    return 0;
}
