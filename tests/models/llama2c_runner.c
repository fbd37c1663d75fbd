/* A reader of llama2.c's version 0 files, written for the tests and from the format alone: it shares no line with what
 * it checks. It feeds the given tokens, then continues greedily, and prints one line a position: the token that
 * follows and all logits.
 *
 * Usage: runner MODEL.bin NEW_TOKENS TOKEN...
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH, FFN, LAYERS, HEADS, KV_HEADS, VOCAB, LENGTH, FIELDS };

static float *data;

static const float *take(size_t count) {
    const float *start = data;
    data += count;
    return start;
}

/* out[rows] = matrix[rows][columns] . in[columns] */
static void multiply(float *out, const float *matrix, const float *in, int rows, int columns) {
    for (int row = 0; row < rows; row++) {
        double sum = 0;
        for (int column = 0; column < columns; column++) sum += (double)matrix[(size_t)row * columns + column] * in[column];
        out[row] = (float)sum;
    }
}

static void normalise(float *out, const float *in, const float *weight, int size) {
    double squares = 0;
    for (int i = 0; i < size; i++) squares += (double)in[i] * in[i];
    double scale = 1 / sqrt(squares / size + 1e-5);
    for (int i = 0; i < size; i++) out[i] = (float)(in[i] * scale * weight[i]);
}

/* Turn neighbouring numbers of every head by an angle that falls with their place in the head. */
static void rotate(float *vector, int heads, int head, int position) {
    for (int h = 0; h < heads; h++)
        for (int pair = 0; pair < head / 2; pair++) {
            double angle = position * pow(10000.0, -2.0 * pair / head);
            float *at = vector + h * head + 2 * pair;
            float first = at[0], second = at[1];
            at[0] = (float)(first * cos(angle) - second * sin(angle));
            at[1] = (float)(first * sin(angle) + second * cos(angle));
        }
}

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    FILE *file = fopen(argv[1], "rb");
    int c[FIELDS];
    if (!file || fread(c, sizeof(int), FIELDS, file) != FIELDS) return 3;
    fseek(file, 0, SEEK_END);
    size_t bytes = (size_t)ftell(file) - sizeof c;
    float *whole = data = malloc(bytes);
    fseek(file, sizeof c, SEEK_SET);
    if (fread(data, 1, bytes, file) != bytes) return 4;

    int shared = c[VOCAB] > 0, vocab = abs(c[VOCAB]), width = c[WIDTH], ffn = c[FFN], layers = c[LAYERS];
    int head = width / c[HEADS], kv = head * c[KV_HEADS], group = c[HEADS] / c[KV_HEADS];
    const float *embedding = take((size_t)vocab * width), *norm1 = take((size_t)layers * width);
    const float *wq = take((size_t)layers * width * width), *wk = take((size_t)layers * kv * width);
    const float *wv = take((size_t)layers * kv * width), *wo = take((size_t)layers * width * width);
    const float *norm2 = take((size_t)layers * width), *w1 = take((size_t)layers * ffn * width);
    const float *w2 = take((size_t)layers * width * ffn), *w3 = take((size_t)layers * ffn * width);
    const float *last = take(width);
    take((size_t)c[LENGTH] * head);
    const float *output = shared ? embedding : take((size_t)vocab * width);
    if ((size_t)(data - whole) * sizeof(float) != bytes) return 5;

    float *keys = calloc((size_t)layers * c[LENGTH] * kv, sizeof(float));
    float *values = calloc((size_t)layers * c[LENGTH] * kv, sizeof(float));
    float *x = calloc(width, 4), *y = calloc(width, 4), *q = calloc(width, 4), *mixed = calloc(width, 4);
    float *gate = calloc(ffn, 4), *up = calloc(ffn, 4), *logits = calloc(vocab, 4);
    double *score = calloc(c[LENGTH], sizeof(double));
    int prompt = argc - 3, total = prompt + atoi(argv[2]), token = atoi(argv[3]);
    for (int position = 0; position < total && position < c[LENGTH]; position++) {
        memcpy(x, embedding + (size_t)token * width, width * sizeof(float));
        for (int layer = 0; layer < layers; layer++) {
            float *key = keys + ((size_t)layer * c[LENGTH] + position) * kv;
            float *value = values + ((size_t)layer * c[LENGTH] + position) * kv;
            normalise(y, x, norm1 + layer * width, width);
            multiply(q, wq + (size_t)layer * width * width, y, width, width);
            multiply(key, wk + (size_t)layer * kv * width, y, kv, width);
            multiply(value, wv + (size_t)layer * kv * width, y, kv, width);
            rotate(q, c[HEADS], head, position);
            rotate(key, c[KV_HEADS], head, position);
            for (int h = 0; h < c[HEADS]; h++) {
                double sum = 0, most = -1e30;
                for (int t = 0; t <= position; t++) {
                    const float *seen = keys + ((size_t)layer * c[LENGTH] + t) * kv + h / group * head;
                    score[t] = 0;
                    for (int i = 0; i < head; i++) score[t] += (double)q[h * head + i] * seen[i];
                    score[t] /= sqrt(head);
                    if (score[t] > most) most = score[t];
                }
                for (int t = 0; t <= position; t++) sum += score[t] = exp(score[t] - most);
                for (int i = 0; i < head; i++) {
                    double mean = 0;
                    for (int t = 0; t <= position; t++)
                        mean += score[t] / sum * values[((size_t)layer * c[LENGTH] + t) * kv + h / group * head + i];
                    mixed[h * head + i] = (float)mean;
                }
            }
            multiply(y, wo + (size_t)layer * width * width, mixed, width, width);
            for (int i = 0; i < width; i++) x[i] += y[i];
            normalise(y, x, norm2 + layer * width, width);
            multiply(gate, w1 + (size_t)layer * ffn * width, y, ffn, width);
            multiply(up, w3 + (size_t)layer * ffn * width, y, ffn, width);
            for (int i = 0; i < ffn; i++) gate[i] = (float)(gate[i] / (1 + exp(-gate[i])) * up[i]);
            multiply(y, w2 + (size_t)layer * width * ffn, gate, width, ffn);
            for (int i = 0; i < width; i++) x[i] += y[i];
        }
        normalise(x, x, last, width);
        multiply(logits, output, x, vocab, width);
        int best = 0;
        for (int i = 1; i < vocab; i++)
            if (logits[i] > logits[best]) best = i;
        token = position + 1 < prompt ? atoi(argv[3 + position + 1]) : best;
        printf("%d", token);
        for (int i = 0; i < vocab; i++) printf(" %.9g", logits[i]);
        printf("\n");
    }
    return 0;
}
