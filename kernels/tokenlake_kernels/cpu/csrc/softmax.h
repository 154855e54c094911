// Softmax attention, whatever the mask and the bias: online softmax forward, probabilities recomputed backward.
#pragma once
#include "tiles.h"

namespace {

// One step of online softmax: s becomes 2^(s - m); o, l are rescaled to the new maximum m.
void softmax_step(float* s, int64_t keys, int64_t width, float* m, float* l, float* o, int64_t dim) {
    for (int64_t n = 0; n < width; n += W) {
        vf old = load(m + n), top = old, other = old;
        int64_t j = 0;
        for (; j + 2 <= keys; j += 2) {
            top = max(top, load(s + j * width + n));
            other = max(other, load(s + (j + 1) * width + n));
        }
        if (j < keys) top = max(top, load(s + j * width + n));
        top = max(top, other);
        vf base = top == splat(NEVER) ? vf{} : top;
        vf alpha = exp2v(old - base), sum = load(l + n) * alpha, sum2 = vf{};
        for (j = 0; j + 2 <= keys; j += 2) {
            vf p = exp2v(load(s + j * width + n) - base), p2 = exp2v(load(s + (j + 1) * width + n) - base);
            store(s + j * width + n, p);
            store(s + (j + 1) * width + n, p2);
            sum += p;
            sum2 += p2;
        }
        if (j < keys) {
            vf p = exp2v(load(s + j * width + n) - base);
            store(s + j * width + n, p);
            sum += p;
        }
        store(l + n, sum + sum2);
        store(m + n, top);
        for (int64_t d = 0; d < dim; ++d) store(o + d * width + n, load(o + d * width + n) * alpha);
    }
}

// Mask adds `first(i)` and `last(i1, keys)`: the keys that queries from i, and up to i1, may see lie between them.
template <class Mask, class Bias>
void softmax_forward_tile(const Shape& shape, Mask mask, const Jagged& Q, const Jagged& K, const Jagged& V, const Bias& bias, const Unit& u, float* out, float* lse) {
    const int64_t dim = shape.dim, keys = shape.k_len(u.row), q0 = shape.q_offsets[u.row], k0 = shape.k_offsets[u.row], kv = u.head / shape.group();
    const Queries tiles(u.start, min64(BQ * QT, shape.q_len(u.row) - u.start), dim);
    alignas(64) float m[BQ * QT], l[BQ * QT], s[BK * BQ];
    tiles.pack(Q.at(q0 + u.start, u.head), Q.token, shape.scale * LOG2E);
    for (int64_t i = 0; i < BQ * QT; ++i) m[i] = NEVER, l[i] = 0;
    mask.row(u.row, keys);
    const int64_t lo = mask.first(u.start) / BK * BK, hi = mask.last(u.start + tiles.count, keys);
    for (int64_t j = lo; j < hi; j += BK)
        for (int64_t t = 0; t < tiles.tiles(); ++t) {
            const int64_t w = min64(BK, keys - j), i = tiles.first(t), n = tiles.size(t), width = tiles.width(t);
            const Seen seen = mask.tile(i, i + n, j, j + w);
            if (seen == Seen::none) continue;
            matmul(w, width, dim, K.at(k0 + j, kv), K.token, 1, tiles.qt(t), width, s, width, false);
            bias.add(u.row, u.head, i, n, j, w, width, s);
            if (seen == Seen::some) hide(mask, s, width, i, n, j, w, NEVER);
            softmax_step(s, w, width, m + t * BQ, l + t * BQ, tiles.ot(t), dim);
            matmul(dim, width, w, V.at(k0 + j, kv), 1, V.token, s, width, tiles.ot(t), width, true);
        }
    for (int64_t t = 0; t < tiles.tiles(); ++t) {
        const int64_t at = q0 + tiles.first(t);
        float *top = m + t * BQ, *sum = l + t * BQ;
        for (int64_t i = 0; i < tiles.size(t); ++i) {
            if (lse) lse[u.head * shape.q_total() + at + i] = sum[i] > 0 ? (top[i] + __builtin_log2f(sum[i])) * LN2 : NEVER;
            sum[i] = sum[i] > 0 ? 1 / sum[i] : 0;
        }
        unpack_transposed(tiles.ot(t), tiles.width(t), tiles.size(t), dim, sum, out + (at * shape.heads + u.head) * dim, shape.heads * dim);
    }
}

// Scores and dP of a tile become probabilities and dS.
inline void softmax_slopes(const float* lse, const float* delta, int64_t n, int64_t keys, int64_t width, float* s, float* dp) {
    alignas(64) float top[BQ] = {}, base[BQ] = {};
    for (int64_t x = 0; x < n; ++x) top[x] = lse[x] * LOG2E, base[x] = delta[x];
    for (int64_t x = 0; x < width; x += W) {
        vf m = load(top + x), d = load(base + x);
        for (int64_t y = 0; y < keys; ++y) {
            vf p = exp2v(load(s + y * width + x) - m);
            store(s + y * width + x, p);
            store(dp + y * width + x, p * (load(dp + y * width + x) - d));
        }
    }
}

}  // namespace
