// Softmax and SiLU attention over jagged rows, forward and backward.
//
// Scores are held transposed, keys down and queries across the vector lanes: K, V are then read where they lie, one
// scalar at a time, softmax is vertical (no reduction across lanes), and only a tile of queries is ever packed.
//
//   S^T = K Q^T     O^T += V^T P^T     dP^T = V dO^T     dQ^T += K^T dS^T     dV += P^T dO     dK += dS^T Q
#include <algorithm>

#include "parallel.h"
#include "simd.h"

namespace {

constexpr int BQ = 64;  // queries of a tile
constexpr int BK = 64;  // keys of a tile
constexpr int QT = 4;  // tiles of queries that share a pass over the keys, so that long rows stream from memory less

// (tokens, heads, dim) at strides; the last dimension is dense.
struct Jagged {
    const float* data;
    int64_t token, head;
    const float* at(int64_t t, int64_t h) const { return data + t * token + h * head; }
};

struct Shape {
    int64_t batch, heads, kv_heads, dim;
    const int64_t *q_offsets, *k_offsets;
    float scale;
    int64_t q_len(int64_t b) const { return q_offsets[b + 1] - q_offsets[b]; }
    int64_t k_len(int64_t b) const { return k_offsets[b + 1] - k_offsets[b]; }
    int64_t group() const { return heads / kv_heads; }
    int64_t q_total() const { return q_offsets[batch]; }
};

enum class Seen { none, some, all };

// ---- what is seen: a band around the diagonal -------------------------------------------------------------------

struct Band {
    int64_t left, right;  // query i sees key j when -left <= j - i <= right
    void row(int64_t, int64_t) {}
    Seen tile(int64_t i0, int64_t i1, int64_t j0, int64_t j1) const {
        if (j0 - (i1 - 1) > right || i0 - (j1 - 1) > left) return Seen::none;
        return (j1 - 1) - i0 > right || (i1 - 1) - j0 > left ? Seen::some : Seen::all;
    }
    // Whether all queries of a vector that starts at i see key j.
    bool whole(int64_t i, int64_t j) const { return i >= j - right && i + W - 1 <= j + left; }
    // Which of the queries i0.. (across lanes) see key j.
    vi lanes_seen(vi i, int64_t j) const {
        int32_t lo = static_cast<int32_t>(max64(j - right, INT32_MIN)), hi = static_cast<int32_t>(min64(j + left, INT32_MAX));
        return (i >= splat(lo)) & (i <= splat(hi));
    }
};

// ---- what is seen: the masks of HSTU ----------------------------------------------------------------------------

struct Hstu {
    int64_t local, tail, prefix, contextual;
    bool target_local;
    const int64_t* targets;  // or null
    int64_t length = 0, history = 0, first = 0;
    void row(int64_t b, int64_t n) {
        length = n;
        history = n - (targets ? targets[b] : 0);
        first = min64(contextual, history);
    }
    bool one(int64_t i, int64_t j) const {
        if (j < first) return true;
        if (i < history) return j <= i && (i - j <= local || i >= history - tail || j < prefix);
        if (i == j) return true;
        return j < history && (!target_local || tail > 0 || history - j <= local || j < prefix);
    }
    Seen tile(int64_t i0, int64_t i1, int64_t j0, int64_t j1) const {
        if (j0 < first) return j1 <= first ? Seen::all : Seen::some;
        if (i0 >= history && j1 <= history) {
            if (!target_local || tail > 0 || j1 <= prefix || history - j0 <= local) return Seen::all;
            return j0 >= prefix && history - (j1 - 1) > local ? Seen::none : Seen::some;
        }
        if (i1 <= history) {
            if (j0 > i1 - 1) return Seen::none;
            bool below = j1 - 1 <= i0;
            if (j0 < prefix) return below && j1 <= prefix ? Seen::all : Seen::some;
            if (i1 > history - tail) return below && i0 >= history - tail ? Seen::all : Seen::some;
            if (i0 - (j1 - 1) > local) return Seen::none;
            return below && (i1 - 1) - j0 <= local ? Seen::all : Seen::some;
        }
        if (j0 >= history && (j0 >= i1 || j1 <= i0)) return Seen::none;
        return Seen::some;
    }
    // The key tile to visit after the one at j, for queries i0..i1: what lies between the sink and the band is skipped.
    int64_t after(int64_t i0, int64_t i1, int64_t j) const {
        const int64_t next = j + BK, sink = max64(prefix, first), low = i1 > history - tail ? 0 : max64(0, i0 - local) / BK * BK;
        return next >= sink && next < low ? low : next;
    }
    int64_t end(int64_t i1) const { return i1 > history ? length : max64(i1, first); }
    // Whether on this tile the mask is no more than `local` back: most tiles that need a mask at all.
    bool banded(int64_t i1, int64_t j0) const { return i1 <= history - tail && j0 >= first && j0 >= prefix; }
    bool whole(int64_t, int64_t j) const { return j < first; }
    vi lanes_seen(vi i, int64_t j) const {
        if (j < first) return splat(-1);
        const int32_t key = static_cast<int32_t>(j), h = static_cast<int32_t>(history);
        vi past = (i >= splat(key)) & (i < splat(h));
        vi near = j < prefix ? splat(-1) : (i <= splat(static_cast<int32_t>(min64(j + local, INT32_MAX)))) | (i >= splat(static_cast<int32_t>(max64(history - tail, 0))));
        vi seen = (past & near) | (i == splat(key));
        bool open = j < history && (!target_local || tail > 0 || history - j <= local || j < prefix);
        return open ? seen | (i >= splat(h)) : seen;
    }
};

// ---- tiles ------------------------------------------------------------------------------------------------------

typedef float v4 __attribute__((vector_size(16)));
typedef float v4_any __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t i4 __attribute__((vector_size(16)));

INLINE v4 pick(v4 a, v4 b, i4 which) {
#ifdef __clang__
    v4 x;
    for (int i = 0; i < 4; ++i) x[i] = which[i] < 4 ? a[which[i]] : b[which[i] - 4];
    return x;
#else
    return __builtin_shuffle(a, b, which);
#endif
}

// dst[d][i] = src[i][d] * factor, in blocks of four by four.
void transpose(const float* src, int64_t lds, int64_t rows, int64_t cols, float factor, float* dst, int64_t ldd) {
    int64_t i = 0;
    for (; i + 4 <= rows; i += 4) {
        int64_t d = 0;
        for (; d + 4 <= cols; d += 4) {
            v4 r[4];
            for (int k = 0; k < 4; ++k) r[k] = *reinterpret_cast<const v4_any*>(src + (i + k) * lds + d) * factor;
            v4 a = pick(r[0], r[1], i4{0, 4, 1, 5}), b = pick(r[2], r[3], i4{0, 4, 1, 5});
            v4 c = pick(r[0], r[1], i4{2, 6, 3, 7}), e = pick(r[2], r[3], i4{2, 6, 3, 7});
            *reinterpret_cast<v4_any*>(dst + d * ldd + i) = pick(a, b, i4{0, 1, 4, 5});
            *reinterpret_cast<v4_any*>(dst + (d + 1) * ldd + i) = pick(a, b, i4{2, 3, 6, 7});
            *reinterpret_cast<v4_any*>(dst + (d + 2) * ldd + i) = pick(c, e, i4{0, 1, 4, 5});
            *reinterpret_cast<v4_any*>(dst + (d + 3) * ldd + i) = pick(c, e, i4{2, 3, 6, 7});
        }
        for (; d < cols; ++d)
            for (int k = 0; k < 4; ++k) dst[d * ldd + i + k] = src[(i + k) * lds + d] * factor;
    }
    for (; i < rows; ++i)
        for (int64_t d = 0; d < cols; ++d) dst[d * ldd + i] = src[i * lds + d] * factor;
}

// dst[d][lane] = src[lane][d] * factor, lanes beyond n are zero.
void pack_transposed(const float* src, int64_t stride, int64_t n, int64_t dim, int64_t width, float factor, float* dst) {
    transpose(src, stride, n, dim, factor, dst, width);
    if (n < width)
        for (int64_t d = 0; d < dim; ++d)
            for (int64_t i = n; i < width; ++i) dst[d * width + i] = 0;
}

void pack_rows(const float* src, int64_t stride, int64_t n, int64_t dim, int64_t padded, float* dst) {
    for (int64_t i = 0; i < n; ++i) {
        std::memcpy(dst + i * padded, src + i * stride, dim * 4);
        for (int64_t d = dim; d < padded; ++d) dst[i * padded + d] = 0;
    }
}

// out[lane][d] = src[d][lane] * factor[lane]; src is scaled where it lies.
void unpack_transposed(float* src, int64_t width, int64_t n, int64_t dim, const float* factor, float* out, int64_t stride) {
    for (int64_t d = 0; d < dim; ++d)
        for (int64_t i = 0; i < width; i += W) store(src + d * width + i, load(src + d * width + i) * load(factor + i));
    transpose(src, width, dim, n, 1, out, stride);
}

template <class Mask>
void fill_unseen(const Mask& mask, float* s, int64_t width, int64_t i0, int64_t j0, int64_t keys, float value) {
    for (int64_t n = 0; n < width; n += W) {
        vi i = lanes() + splat(static_cast<int32_t>(i0 + n));
        for (int64_t j = 0; j < keys; ++j) {
            if (mask.whole(i0 + n, j0 + j)) continue;
            float* at = s + j * width + n;
            store(at, mask.lanes_seen(i, j0 + j) ? load(at) : splat(value));
        }
    }
}

void hide(const Band& mask, float* s, int64_t width, int64_t i0, int64_t, int64_t j0, int64_t keys, float value) {
    fill_unseen(mask, s, width, i0, j0, keys, value);
}

void hide(const Hstu& mask, float* s, int64_t width, int64_t i0, int64_t n, int64_t j0, int64_t keys, float value) {
    if (mask.banded(i0 + n, j0)) fill_unseen(Band{mask.local, 0}, s, width, i0, j0, keys, value);
    else fill_unseen(mask, s, width, i0, j0, keys, value);
}

// ---- softmax forward --------------------------------------------------------------------------------------------

struct Bias {
    const float* data;  // (batch, queries, max_len) or null
    int64_t queries, max_len;
    const float* row(int64_t b) const { return data ? data + b * queries * max_len : nullptr; }
};

void add_bias(const float* bias, int64_t ld, int64_t i0, int64_t n, int64_t j0, int64_t keys, int64_t width, float factor, float* s) {
    for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < keys; ++j) s[j * width + i] += bias[(i0 + i) * ld + j0 + j] * factor;
}

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

struct Unit {
    int64_t row, head, start, cost;
};

// The last queries of a row first: under causal and tail masks they see the most, and the threads should end together.
std::vector<Unit> query_tiles(const Shape& shape) {
    std::vector<Unit> units;
    for (int64_t b = 0; b < shape.batch; ++b)
        for (int64_t i = (shape.q_len(b) - 1) / (BQ * QT) * (BQ * QT); i >= 0 && i < shape.q_len(b); i -= BQ * QT)
            for (int64_t h = 0; h < shape.heads; ++h) units.push_back({b, h, i, shape.k_len(b)});
    return units;
}

// (row, key-value head) pairs, the longest first so that the threads end together.
std::vector<Unit> row_heads(const Shape& shape, bool whole_rows) {
    std::vector<Unit> units;
    for (int64_t b = 0; b < shape.batch; ++b)
        for (int64_t h = 0; h < (whole_rows ? 1 : shape.kv_heads); ++h)
            units.push_back({b, h, 0, shape.q_len(b) * shape.k_len(b)});
    std::stable_sort(units.begin(), units.end(), [](const Unit& a, const Unit& b) { return a.cost > b.cost; });
    return units;
}

// The queries that one unit of work packs: QT tiles, each with its own transposed q and o.
struct Queries {
    int64_t start, count, dim;
    Buffer q, o;
    Queries(int64_t start_, int64_t count_, int64_t dim_) : start(start_), count(count_), dim(dim_), q(dim_ * BQ * QT), o(dim_ * BQ * QT) { o.zero(dim_ * BQ * QT); }
    int64_t tiles() const { return (count + BQ - 1) / BQ; }
    int64_t first(int64_t t) const { return start + t * BQ; }
    int64_t size(int64_t t) const { return min64(BQ, count - t * BQ); }
    int64_t width(int64_t t) const { return pad_up(size(t)); }
    float* qt(int64_t t) const { return q + t * dim * BQ; }
    float* ot(int64_t t) const { return o + t * dim * BQ; }
    void pack(const float* src, int64_t stride, float factor) const {
        for (int64_t t = 0; t < tiles(); ++t) pack_transposed(src + t * BQ * stride, stride, size(t), dim, width(t), factor, qt(t));
    }
};

void softmax_forward_tile(const Shape& shape, Band mask, const Jagged& Q, const Jagged& K, const Jagged& V, const Bias& bias, const Unit& u, float* out, float* lse) {
    const int64_t dim = shape.dim, keys = shape.k_len(u.row), q0 = shape.q_offsets[u.row], k0 = shape.k_offsets[u.row], kv = u.head / shape.group();
    const Queries tiles(u.start, min64(BQ * QT, shape.q_len(u.row) - u.start), dim);
    alignas(64) float m[BQ * QT], l[BQ * QT], s[BK * BQ];
    tiles.pack(Q.at(q0 + u.start, u.head), Q.token, shape.scale * LOG2E);
    for (int64_t i = 0; i < BQ * QT; ++i) m[i] = NEVER, l[i] = 0;
    const int64_t lo = max64(0, u.start - mask.left) / BK * BK;
    const int64_t hi = mask.right >= keys ? keys : min64(keys, u.start + tiles.count + mask.right);
    for (int64_t j = lo; j < hi; j += BK)
        for (int64_t t = 0; t < tiles.tiles(); ++t) {
            const int64_t w = min64(BK, keys - j), i = tiles.first(t), n = tiles.size(t), width = tiles.width(t);
            const Seen seen = mask.tile(i, i + n, j, j + w);
            if (seen == Seen::none) continue;
            matmul(w, width, dim, K.at(k0 + j, kv), K.token, 1, tiles.qt(t), width, s, width, false);
            if (bias.data) add_bias(bias.row(u.row), bias.max_len, i, n, j, w, width, LOG2E, s);
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

// ---- backward, shared: tiles of one (row, key-value head) -------------------------------------------------------

struct Grads {
    float *dq, *dk, *dv;  // dense (total, heads, dim), zeroed by the caller where rows may be skipped
};

// `fill(s, dp, ...)` turns scores into probabilities (in s) and dP into dS (in dp) for one tile.
template <class Mask, class Fill>
void backward_row(const Shape& shape, Mask mask, const Jagged& Q, const Jagged& K, const Jagged& V, const Jagged& G, int64_t row, int64_t kv, float q_factor, float ds_factor, const Grads& out, const Fill& fill) {
    const int64_t dim = shape.dim, padded = pad_up(dim), queries = shape.q_len(row), keys = shape.k_len(row);
    const int64_t q0 = shape.q_offsets[row], k0 = shape.k_offsets[row];
    if (keys == 0 || queries == 0) return;
    Buffer dk(keys * padded), dv(keys * padded), qt(dim * BQ), gt(dim * BQ), qr(BQ * padded), gr(BQ * padded), dqt(dim * BQ);
    alignas(64) float s[BK * BQ], dp[BK * BQ], factor[BQ];
    dk.zero(keys * padded);
    dv.zero(keys * padded);
    std::fill(factor, factor + BQ, ds_factor);
    mask.row(row, keys);
    for (int64_t h = kv * shape.group(); h < (kv + 1) * shape.group(); ++h)
        for (int64_t i = 0; i < queries; i += BQ) {
            const int64_t n = min64(BQ, queries - i), width = pad_up(n);
            const float *q = Q.at(q0 + i, h), *g = G.at(q0 + i, h);
            pack_transposed(q, Q.token, n, dim, width, q_factor, qt);
            pack_transposed(g, G.token, n, dim, width, 1, gt);
            pack_rows(q, Q.token, n, dim, padded, qr);
            pack_rows(g, G.token, n, dim, padded, gr);
            dqt.zero(dim * width);
            for (int64_t j = 0; j < keys; j += BK) {
                const int64_t w = min64(BK, keys - j);
                Seen seen = mask.tile(i, i + n, j, j + w);
                if (seen == Seen::none) continue;
                const float *k = K.at(k0 + j, kv), *v = V.at(k0 + j, kv);
                matmul(w, width, dim, k, K.token, 1, qt, width, s, width, false);
                matmul(w, width, dim, v, V.token, 1, gt, width, dp, width, false);
                fill(mask, seen, h, i, n, width, j, w, s, dp);
                matmul(w, padded, n, s, width, 1, gr, padded, dv + j * padded, padded, true);
                matmul(w, padded, n, dp, width, 1, qr, padded, dk + j * padded, padded, true);
                matmul(dim, width, w, k, 1, K.token, dp, width, dqt, width, true);
            }
            unpack_transposed(dqt, width, n, dim, factor, out.dq + ((q0 + i) * shape.heads + h) * dim, shape.heads * dim);
        }
    for (int64_t j = 0; j < keys; ++j)
        for (int64_t d = 0; d < dim; ++d) {
            const int64_t at = ((k0 + j) * shape.kv_heads + kv) * dim + d;
            out.dk[at] = dk[j * padded + d] * ds_factor;
            out.dv[at] = dv[j * padded + d];
        }
}

// ---- SiLU -------------------------------------------------------------------------------------------------------

struct Tables {
    const float *position, *time;  // (table heads, size) or null
    int64_t position_size, time_size;
    int64_t position_step, time_step;  // a head's stride: 0 when the heads share one table
    const int64_t* timestamps;
    bool any() const { return position || time; }
};

INLINE int64_t time_bucket(int64_t gap, int64_t buckets) {
    float x = static_cast<float>(gap < 0 ? -gap : gap);
    x = x < 1 ? 1 : x;
    int32_t bits;
    std::memcpy(&bits, &x, 4);
    return min64((bits - 0x3F800000) >> 22, buckets - 1);
}

INLINE int64_t position_at(int64_t gap, int64_t size) { return min64(max64(gap, 0), size - 1); }

void add_tables(const Tables& t, int64_t h, int64_t row0, int64_t i0, int64_t n, int64_t width, int64_t j0, int64_t keys, float* s) {
    if (t.position) {
        const float* table = t.position + h * t.position_step;
        for (int64_t j = 0; j < keys; ++j) {
            const int64_t gap = i0 - (j0 + j);
            float* at = s + j * width;
            if (gap >= 0 && gap + n <= t.position_size)
                for (int64_t i = 0; i < n; ++i) at[i] += table[gap + i];
            else
                for (int64_t i = 0; i < n; ++i) at[i] += table[position_at(gap + i, t.position_size)];
        }
    }
    if (t.time) {
        const float* table = t.time + h * t.time_step;
        const int64_t *query = t.timestamps + row0 + i0, *key = t.timestamps + row0 + j0;
        for (int64_t j = 0; j < keys; ++j)
            for (int64_t i = 0; i < n; ++i) s[j * width + i] += table[time_bucket(query[i] - key[j], t.time_size)];
    }
}

void add_table_grads(const Tables& t, int64_t h, int64_t row0, int64_t i0, int64_t n, int64_t width, int64_t j0, int64_t keys, const float* ds, float* dposition, float* dtime) {
    if (t.position)
        for (int64_t j = 0; j < keys; ++j)
            for (int64_t i = 0; i < n; ++i)
                dposition[h * t.position_step + position_at(i0 + i - j0 - j, t.position_size)] += ds[j * width + i];
    if (t.time) {
        const int64_t *query = t.timestamps + row0 + i0, *key = t.timestamps + row0 + j0;
        for (int64_t j = 0; j < keys; ++j)
            for (int64_t i = 0; i < n; ++i)
                dtime[h * t.time_step + time_bucket(query[i] - key[j], t.time_size)] += ds[j * width + i];
    }
}

void silu_forward_tile(const Shape& shape, Hstu mask, const Jagged& Q, const Jagged& K, const Jagged& V, const Tables& tables, float norm, const Unit& u, float* out) {
    const int64_t dim = shape.dim, keys = shape.k_len(u.row), k0 = shape.k_offsets[u.row];
    const Queries tiles(u.start, min64(BQ * QT, keys - u.start), dim);
    alignas(64) float s[BK * BQ], factor[BQ];
    tiles.pack(Q.at(k0 + u.start, u.head), Q.token, shape.scale);
    mask.row(u.row, keys);
    const int64_t last = u.start + tiles.count;
    for (int64_t j = max64(0, mask.after(u.start, last, -BK)); j < mask.end(last); j = mask.after(u.start, last, j))
        for (int64_t t = 0; t < tiles.tiles(); ++t) {
            const int64_t w = min64(BK, keys - j), i = tiles.first(t), n = tiles.size(t), width = tiles.width(t);
            const Seen seen = mask.tile(i, i + n, j, j + w);
            if (seen == Seen::none) continue;
            matmul(w, width, dim, K.at(k0 + j, u.head), K.token, 1, tiles.qt(t), width, s, width, false);
            if (tables.any()) add_tables(tables, u.head, k0, i, n, width, j, w, s);
            for (int64_t x = 0; x < w * width; x += W) {
                vf z = load(s + x);
                store(s + x, z * sigmoid(z));
            }
            if (seen == Seen::some) hide(mask, s, width, i, n, j, w, 0);
            matmul(dim, width, w, V.at(k0 + j, u.head), 1, V.token, s, width, tiles.ot(t), width, true);
        }
    std::fill(factor, factor + BQ, 1 / norm);
    for (int64_t t = 0; t < tiles.tiles(); ++t)
        unpack_transposed(tiles.ot(t), tiles.width(t), tiles.size(t), dim, factor, out + ((k0 + tiles.first(t)) * shape.heads + u.head) * dim, shape.heads * dim);
}

}  // namespace

extern "C" {

// Strides are in floats: (token, head) of q, k, v. lse (heads, queries) may be null; bias may be null.
void tl_attention_forward(const float* q, const float* k, const float* v, const int64_t* strides, const float* bias, const int64_t* q_offsets, const int64_t* k_offsets, int64_t batch, int64_t heads, int64_t kv_heads, int64_t dim, int64_t bias_queries, int64_t bias_len, int64_t left, int64_t right, float scale, float* out, float* lse, int threads) {
    Shape shape{batch, heads, kv_heads, dim, q_offsets, k_offsets, scale};
    Jagged Q{q, strides[0], strides[1]}, K{k, strides[2], strides[3]}, V{v, strides[4], strides[5]};
    Bias b{bias, bias_queries, bias_len};
    auto units = query_tiles(shape);
    parallel(static_cast<int64_t>(units.size()), threads, [&](int64_t u, int) { softmax_forward_tile(shape, Band{left, right}, Q, K, V, b, units[u], out, lse); });
}

// g is the gradient of out, delta (heads, queries) = sum(g * out); dbias (batch, queries, max_len) is zero on entry.
void tl_attention_backward(const float* q, const float* k, const float* v, const float* g, const int64_t* strides, const float* bias, const float* lse, const float* delta, const int64_t* q_offsets, const int64_t* k_offsets, int64_t batch, int64_t heads, int64_t kv_heads, int64_t dim, int64_t bias_queries, int64_t bias_len, int64_t left, int64_t right, float scale, float* dq, float* dk, float* dv, float* dbias, int threads) {
    Shape shape{batch, heads, kv_heads, dim, q_offsets, k_offsets, scale};
    Jagged Q{q, strides[0], strides[1]}, K{k, strides[2], strides[3]}, V{v, strides[4], strides[5]}, G{g, strides[6], strides[7]};
    Bias in{bias, bias_queries, bias_len};
    const bool whole = dbias != nullptr;  // the heads of a row share its bias gradient
    auto units = row_heads(shape, whole);
    auto run = [&](int64_t row, int64_t kv) {
        auto fill = [&](const Band& mask, Seen seen, int64_t h, int64_t i, int64_t n, int64_t width, int64_t j, int64_t w, float* s, float* dp) {
            if (in.data) add_bias(in.row(row), bias_len, i, n, j, w, width, LOG2E, s);
            if (seen == Seen::some) hide(mask, s, width, i, n, j, w, NEVER);
            alignas(64) float top[BQ] = {}, base[BQ] = {};
            const int64_t at = h * shape.q_total() + q_offsets[row] + i;
            for (int64_t x = 0; x < n; ++x) top[x] = lse[at + x] * LOG2E, base[x] = delta[at + x];
            for (int64_t x = 0; x < width; x += W) {
                vf m = load(top + x), d = load(base + x);
                for (int64_t y = 0; y < w; ++y) {
                    vf p = exp2v(load(s + y * width + x) - m);
                    store(s + y * width + x, p);
                    store(dp + y * width + x, p * (load(dp + y * width + x) - d));
                }
            }
            if (dbias)
                for (int64_t x = 0; x < n; ++x)
                    for (int64_t y = 0; y < w; ++y) dbias[(row * bias_queries + i + x) * bias_len + j + y] += dp[y * width + x];
        };
        backward_row(shape, Band{left, right}, Q, K, V, G, row, kv, scale * LOG2E, scale, Grads{dq, dk, dv}, fill);
    };
    parallel(static_cast<int64_t>(units.size()), threads, [&](int64_t u, int) {
        if (!whole) return run(units[u].row, units[u].head);
        for (int64_t kv = 0; kv < kv_heads; ++kv) run(units[u].row, kv);
    });
}

// mask: local, tail, prefix, contextual, target_local. tables: position size, its head stride, time size, its head stride.
void tl_hstu_forward(const float* q, const float* k, const float* v, const int64_t* strides, const int64_t* offsets, const int64_t* targets, int64_t batch, int64_t heads, int64_t dim, const int64_t* mask, const float* position, const float* time, const int64_t* tables, const int64_t* timestamps, float scale, float norm, float* out, int threads) {
    Shape shape{batch, heads, heads, dim, offsets, offsets, scale};
    Jagged Q{q, strides[0], strides[1]}, K{k, strides[2], strides[3]}, V{v, strides[4], strides[5]};
    Hstu seen{mask[0], mask[1], mask[2], mask[3], mask[4] != 0, targets};
    Tables t{position, time, tables[0], tables[2], tables[1], tables[3], timestamps};
    auto units = query_tiles(shape);
    parallel(static_cast<int64_t>(units.size()), threads, [&](int64_t u, int) { silu_forward_tile(shape, seen, Q, K, V, t, norm, units[u], out); });
}

// dposition and dtime hold one table a thread, zero on entry; the caller sums them.
void tl_hstu_backward(const float* q, const float* k, const float* v, const float* g, const int64_t* strides, const int64_t* offsets, const int64_t* targets, int64_t batch, int64_t heads, int64_t dim, const int64_t* mask, const float* position, const float* time, const int64_t* tables, const int64_t* timestamps, float scale, float norm, float* dq, float* dk, float* dv, float* dposition, float* dtime, int64_t position_total, int64_t time_total, int threads) {
    Shape shape{batch, heads, heads, dim, offsets, offsets, scale};
    Jagged Q{q, strides[0], strides[1]}, K{k, strides[2], strides[3]}, V{v, strides[4], strides[5]}, G{g, strides[6], strides[7]};
    Hstu seen_by{mask[0], mask[1], mask[2], mask[3], mask[4] != 0, targets};
    Tables t{position, time, tables[0], tables[2], tables[1], tables[3], timestamps};
    auto units = row_heads(shape, false);
    const vf inverse = splat(1 / norm);
    parallel(static_cast<int64_t>(units.size()), threads, [&](int64_t u, int thread) {
        const int64_t row = units[u].row, row0 = offsets[row];
        auto fill = [&](const Hstu& mask, Seen seen, int64_t h, int64_t i, int64_t n, int64_t width, int64_t j, int64_t w, float* s, float* dp) {
            if (t.any()) add_tables(t, h, row0, i, n, width, j, w, s);
            for (int64_t x = 0; x < w * width; x += W) {
                vf z = load(s + x), y = sigmoid(z), silu = z * y;
                store(s + x, silu * inverse);
                store(dp + x, load(dp + x) * inverse * (y + silu * (splat(1.0f) - y)));
            }
            if (seen == Seen::some) {
                hide(mask, s, width, i, n, j, w, 0);
                hide(mask, dp, width, i, n, j, w, 0);
            }
            if (t.any()) add_table_grads(t, h, row0, i, n, width, j, w, dp, dposition + thread * position_total, dtime + thread * time_total);
        };
        backward_row(shape, seen_by, Q, K, V, G, row, units[u].head, scale, scale, Grads{dq, dk, dv}, fill);
    });
}

}  // extern "C"
