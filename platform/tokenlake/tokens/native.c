/* The store's inner loops: find the rows that answer each query, copy them, sort rows for writing.
 *
 * A plain C interface without state: Python owns all memory, checks all arguments, and calls with the GIL released.
 * find.py, gather.py and part.py hold the same in NumPy, which is the reference, and what runs without a compiler. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

enum { MAX_THREADS = 16, WANT_LOAD = 1, WANT_CHECK = 2, NO_MEMORY = 4 };

typedef struct {            /* one file; all zero until it is loaded */
    const int64_t *users;   /* by mix(user) */
    const int32_t *offsets; /* users + 1: rows of each user */
    const int32_t *cells;   /* (1 << cell_bits) + 1: first user of each cell of the hash's range in this file */
    const int64_t *times;
    uint8_t *checked;       /* by block of rows: 0 untouched, 1 good, 2 wanted */
    int64_t cell_bits;
    int64_t block_shift;
} segment_t;

typedef struct {            /* a slice of days */
    int64_t start, stop;    /* its rows have start <= time < stop */
    int64_t bits;           /* the hash's top bits choose the file */
    int64_t first;          /* number of its first file */
} piece_t;

typedef struct {            /* rows [start, start + count) of a file; of the tail when segment is -1 */
    int32_t segment, start, count;
} run_t;

typedef struct {
    const segment_t *segments;
    const piece_t *pieces;  /* oldest first */
    int64_t n_pieces;
    uint8_t *wanted;        /* by file: WANT_LOAD | WANT_CHECK */
    const uint8_t *present; /* by file: whether it exists */
    /* queries */
    int64_t n;
    const int64_t *users, *since, *before; /* since may be NULL */
    int64_t length;
    /* the tail's rows of each query, by time; NULL when there are none */
    const int64_t *tail_offsets, *tail_rows, *tail_times;
    /* out */
    run_t *runs;            /* query i: from slot(i), newest first */
    int32_t *n_runs;
    int64_t *offsets;       /* n + 1 */
} find_t;

typedef struct {
    const find_t *find;
    int64_t from, to;
    int status;
} find_job;

static inline uint64_t mix(int64_t user) {
    uint64_t h = (uint64_t)user;
    h ^= h >> 33;
    h *= 0xFF51AFD7ED558CCDull;
    h ^= h >> 33;
    h *= 0xC4CEB9FE1A85EC53ull;
    return h ^ (h >> 33);
}

/* The first row of [low, high) whose time is not below `wanted`. */
static inline int64_t lower_bound(const int64_t *times, int64_t low, int64_t high, int64_t wanted) {
    int64_t n = high - low;
    while (n > 0) {
        int64_t half = n >> 1;
        int below = times[low + half] < wanted;
        low = below ? low + half + 1 : low;
        n = below ? n - half - 1 : half;
    }
    return low;
}

static inline int64_t slot(const find_t *f, int64_t query) {
    return query * (f->n_pieces + 1) + (f->tail_offsets ? 2 * f->tail_offsets[query] : 0);
}

/* Where a user's rows lie in a file; 0 when it has none. */
static inline int rows_of(const segment_t *s, int64_t bits, uint64_t hash, int64_t user, int64_t *first, int64_t *last) {
    uint64_t cell = (hash << bits) >> (64 - s->cell_bits);
    for (int32_t at = s->cells[cell], end = s->cells[cell + 1]; at < end; at++)
        if (s->users[at] == user) {
            *first = s->offsets[at];
            *last = s->offsets[at + 1];
            return 1;
        }
    return 0;
}

static int want_blocks(const segment_t *s, int64_t from, int64_t to) {
    int missed = 0;
    if (from < to)
        for (int64_t b = from >> s->block_shift, end = (to - 1) >> s->block_shift; b <= end; b++)
            if (s->checked[b] != 1) s->checked[b] = 2, missed = WANT_CHECK;
    return missed;
}

/* Merge the query's tail rows into its runs, newest first; at equal times the tail's rows are the newer ones. */
static int merge_tail(const find_t *f, int64_t query, run_t *runs, int n_runs, run_t *scratch, int64_t *total) {
    int64_t low = f->tail_offsets[query], high = f->tail_offsets[query + 1], left = f->length;
    int made = 0;
    memcpy(scratch, runs, n_runs * sizeof(run_t));
    for (int i = 0; left > 0 && (i < n_runs || high > low);) {
        run_t *day = i < n_runs ? &scratch[i] : NULL;
        const int64_t *times = day ? f->segments[day->segment].times : NULL;
        if (high > low && (!day || f->tail_times[f->tail_rows[high - 1]] >= times[day->start + day->count - 1])) {
            int64_t row = f->tail_rows[--high];
            if (made && runs[made - 1].segment == -1 && runs[made - 1].start == row + 1) {
                runs[made - 1].start--;
                runs[made - 1].count++;
            } else {
                runs[made++] = (run_t){-1, (int32_t)row, 1};
            }
            left--;
            continue;
        }
        int64_t from = day->start, end = day->start + day->count;
        if (high > low) { /* only the rows later than the tail's next one */
            from = lower_bound(times, from, end, f->tail_times[f->tail_rows[high - 1]] + 1);
        }
        if (end - from > left) from = end - left;
        runs[made++] = (run_t){day->segment, (int32_t)from, (int32_t)(end - from)};
        left -= end - from;
        day->count = (int32_t)(from - day->start);
        if (day->count == 0) i++;
    }
    *total = f->length - left;
    return made;
}

static void *find_some(void *argument) {
    find_job *job = argument;
    const find_t *f = job->find;
    run_t *scratch = f->tail_offsets ? malloc((f->n_pieces + 1) * sizeof(run_t)) : NULL;
    if (f->tail_offsets && !scratch) {
        job->status = NO_MEMORY;
        return NULL;
    }
    for (int64_t q = job->from; q < job->to; q++) {
        int64_t user = f->users[q], before = f->before[q], since = f->since ? f->since[q] : INT64_MIN;
        uint64_t hash = mix(user);
        run_t *runs = f->runs + slot(f, q);
        int n_runs = 0;
        int64_t left = f->length;
        for (int64_t p = f->n_pieces - 1; p >= 0 && left > 0; p--) {
            const piece_t *piece = &f->pieces[p];
            if (piece->start >= before) continue;
            if (piece->stop <= since) break;
            int64_t number = piece->first + (piece->bits ? (int64_t)(hash >> (64 - piece->bits)) : 0);
            if (!f->present[number]) continue;
            const segment_t *s = &f->segments[number];
            int64_t first, last;
            if (!s->users) {
                f->wanted[number] |= WANT_LOAD;
                job->status |= WANT_LOAD;
                continue;
            }
            if (!rows_of(s, piece->bits, hash, user, &first, &last)) continue;
            int64_t until = before < piece->stop ? before : piece->stop, from = since > piece->start ? since : piece->start;
            int64_t stop = lower_bound(s->times, first, last, until);
            int64_t start = stop - left > first ? stop - left : first;
            if (start < stop && s->times[start] < from) start = lower_bound(s->times, start, stop, from);
            /* The neighbours too: they prove that the search, which may have read bad bytes, ended where it should. */
            if (want_blocks(s, start > first ? start - 1 : first, stop < last ? stop + 1 : last)) {
                f->wanted[number] |= WANT_CHECK;
                job->status |= WANT_CHECK;
            }
            if (start == stop) continue;
            runs[n_runs++] = (run_t){(int32_t)number, (int32_t)start, (int32_t)(stop - start)};
            left -= stop - start;
        }
        int64_t total = f->length - left;
        if (scratch && f->tail_offsets[q + 1] > f->tail_offsets[q])
            n_runs = merge_tail(f, q, runs, n_runs, scratch, &total);
        f->n_runs[q] = n_runs;
        f->offsets[q + 1] = total;
    }
    free(scratch);
    return NULL;
}

/* Run jobs of `size` bytes each, the first one in this thread. */
static void run_jobs(void *(*work)(void *), void *jobs, size_t size, int n) {
    pthread_t threads[MAX_THREADS];
    int started = 1;
    for (; started < n; started++)
        if (pthread_create(&threads[started], NULL, work, (char *)jobs + started * size)) break;
    for (int i = started; i < n; i++) work((char *)jobs + i * size); /* no thread to be had */
    work(jobs);
    for (int i = 1; i < started; i++) pthread_join(threads[i], NULL);
}

/* Find the rows of every query. Returns what is wanted before the answer holds: files to load, blocks to check. */
int tl_find(const find_t *f, int threads) {
    find_job jobs[MAX_THREADS];
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    for (int i = 0; i < threads; i++) jobs[i] = (find_job){f, f->n * i / threads, f->n * (i + 1) / threads, 0};
    run_jobs(find_some, jobs, sizeof(find_job), threads);
    int status = 0;
    for (int i = 0; i < threads; i++) status |= jobs[i].status;
    f->offsets[0] = 0;
    for (int64_t q = 0; q < f->n; q++) f->offsets[q + 1] += f->offsets[q];
    return status;
}

typedef struct {
    uint8_t *out;
    int64_t width;                /* bytes of a row */
    const uint8_t *const *bases;  /* by file */
    const uint8_t *tail;
    const int64_t *const *known;  /* a label's known_at, by file; NULL for other columns */
    const int64_t *tail_known;
    uint8_t *known_out;
} column_t;

typedef struct {
    const find_t *find;
    const column_t *columns;
    int64_t n_columns;
    const int64_t *moments;       /* by query: labels known before are shown */
    int64_t stream;                   /* the output is larger than the caches: write around them */
} gather_t;

typedef struct {
    const gather_t *gather;
    int64_t from, to;
} gather_job;

static inline void copy(uint8_t *to, const uint8_t *from, size_t size, int stream) {
#if defined(__SSE2__)
    if (stream && size >= 256 && ((uintptr_t)to & 15) == 0) {
        size_t whole = size & ~(size_t)63;
        for (size_t at = 0; at < whole; at += 64) {
            __m128i a = _mm_loadu_si128((const __m128i *)(from + at)), b = _mm_loadu_si128((const __m128i *)(from + at + 16));
            __m128i c = _mm_loadu_si128((const __m128i *)(from + at + 32)), d = _mm_loadu_si128((const __m128i *)(from + at + 48));
            _mm_stream_si128((__m128i *)(to + at), a);
            _mm_stream_si128((__m128i *)(to + at + 16), b);
            _mm_stream_si128((__m128i *)(to + at + 32), c);
            _mm_stream_si128((__m128i *)(to + at + 48), d);
        }
        to += whole, from += whole, size -= whole;
    }
#endif
    memcpy(to, from, size);
}

static void gather_label(const column_t *c, const run_t *run, int64_t at, int64_t moment) {
    const int64_t *known = (run->segment < 0 ? c->tail_known : c->known[run->segment]) + run->start;
    const uint8_t *from = (run->segment < 0 ? c->tail : c->bases[run->segment]) + run->start * c->width;
    uint8_t *to = c->out + at * c->width, *flags = c->known_out + at;
    for (int32_t i = 0; i < run->count; i++) flags[i] = known[i] < moment;
    if (c->width == 1) {
        for (int32_t i = 0; i < run->count; i++) to[i] = from[i] & -flags[i];
        return;
    }
    memcpy(to, from, run->count * c->width);
    for (int32_t i = 0; i < run->count; i++)
        if (!flags[i]) memset(to + i * c->width, 0, c->width);
}

static void *gather_some(void *argument) {
    gather_job *job = argument;
    const gather_t *g = job->gather;
    const find_t *f = g->find;
    for (int64_t q = job->from; q < job->to; q++) {
        const run_t *runs = f->runs + slot(f, q);
        int64_t at = f->offsets[q + 1];
        for (int r = 0; r < f->n_runs[q]; r++) {
            const run_t *run = &runs[r];
            at -= run->count;
            for (int64_t k = 0; k < g->n_columns; k++) {
                const column_t *c = &g->columns[k];
                if (c->known) {
                    gather_label(c, run, at, g->moments[q]);
                    continue;
                }
                const uint8_t *base = run->segment < 0 ? c->tail : c->bases[run->segment];
                copy(c->out + at * c->width, base + run->start * c->width, run->count * c->width, g->stream);
            }
        }
    }
#if defined(__SSE2__)
    if (g->stream) _mm_sfence();
#endif
    return NULL;
}

/* Copy the rows that tl_find found. */
void tl_gather(const gather_t *g, int threads) {
    gather_job jobs[MAX_THREADS];
    const find_t *f = g->find;
    int64_t q = 0;
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    for (int i = 0; i < threads; i++) { /* equal rows for each thread */
        int64_t from = q, until = f->offsets[f->n] / threads * (i + 1);
        while (q < f->n && (i == threads - 1 || f->offsets[q] < until)) q++;
        jobs[i] = (gather_job){g, from, q};
    }
    run_jobs(gather_some, jobs, sizeof(gather_job), threads);
}

typedef struct {
    uint64_t hash, time;
    int64_t row;
} key_t_;

typedef struct {
    key_t_ *keys, *spare;
    const int64_t *cuts;
    int64_t from, to, *order;
} sort_job;

static void sort_digits(key_t_ **keys, key_t_ **spare, int64_t n, int by_time) {
    uint64_t all = 0, same = ~(uint64_t)0;
    for (int64_t i = 0; i < n; i++) {
        uint64_t v = by_time ? (*keys)[i].time : (*keys)[i].hash;
        all |= v, same &= v;
    }
    for (int shift = 0; shift < 64; shift += 8) {
        int64_t counts[257] = {0};
        if ((((all ^ same) >> shift) & 255) == 0) continue; /* a digit that all share */
        for (int64_t i = 0; i < n; i++) counts[(((by_time ? (*keys)[i].time : (*keys)[i].hash) >> shift) & 255) + 1]++;
        for (int d = 0; d < 256; d++) counts[d + 1] += counts[d];
        for (int64_t i = 0; i < n; i++)
            (*spare)[counts[((by_time ? (*keys)[i].time : (*keys)[i].hash) >> shift) & 255]++] = (*keys)[i];
        key_t_ *other = *keys;
        *keys = *spare, *spare = other;
    }
}

static void *sort_some(void *argument) {
    sort_job *job = argument;
    for (int64_t b = job->from; b < job->to; b++) {
        int64_t start = job->cuts[b], n = job->cuts[b + 1] - start;
        key_t_ *keys = job->keys + start, *spare = job->spare + start;
        sort_digits(&keys, &spare, n, 1);
        sort_digits(&keys, &spare, n, 0);
        for (int64_t i = 0; i < n; i++) job->order[start + i] = keys[i].row;
    }
    return NULL;
}

/* The order of rows by (mix(user), time, row). Returns 0, or 1 when there is no memory for it. */
int tl_order(int64_t n, const int64_t *users, const int64_t *times, int64_t *order, int threads) {
    int bits = 1;
    while (bits < 12 && (n >> bits) > 8192) bits++;
    int64_t buckets = (int64_t)1 << bits, *cuts = calloc(2 * buckets + 2, sizeof(int64_t)), *next = cuts + buckets + 1;
    key_t_ *keys = malloc((n + 1) * sizeof(key_t_)), *spare = malloc((n + 1) * sizeof(key_t_));
    int failed = !cuts || !keys || !spare;
    if (!failed) {
        for (int64_t i = 0; i < n; i++) cuts[(mix(users[i]) >> (64 - bits)) + 1]++;
        for (int64_t b = 0; b < buckets; b++) cuts[b + 1] += cuts[b];
        memcpy(next, cuts, buckets * sizeof(int64_t));
        for (int64_t i = 0; i < n; i++) {
            uint64_t hash = mix(users[i]);
            keys[next[hash >> (64 - bits)]++] = (key_t_){hash, (uint64_t)times[i] ^ ((uint64_t)1 << 63), i};
        }
        sort_job jobs[MAX_THREADS];
        if (threads > MAX_THREADS) threads = MAX_THREADS;
        for (int i = 0; i < threads; i++)
            jobs[i] = (sort_job){keys, spare, cuts, buckets * i / threads, buckets * (i + 1) / threads, order};
        run_jobs(sort_some, jobs, sizeof(sort_job), threads);
    }
    free(cuts), free(keys), free(spare);
    return failed;
}

typedef struct {
    const uint8_t *from;
    uint8_t *to;
    const int64_t *index;
    int64_t width, start, stop;
} take_job;

static void *take_some(void *argument) {
    take_job *job = argument;
    int64_t w = job->width;
    for (int64_t i = job->start; i < job->stop; i++) {
        if (w == 8)
            memcpy(job->to + i * 8, job->from + job->index[i] * 8, 8);
        else if (w == 1)
            job->to[i] = job->from[job->index[i]];
        else
            memcpy(job->to + i * w, job->from + job->index[i] * w, w);
    }
    return NULL;
}

/* to[i] = from[index[i]], rows of `width` bytes. */
void tl_take(const uint8_t *from, uint8_t *to, const int64_t *index, int64_t n, int64_t width, int threads) {
    take_job jobs[MAX_THREADS];
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    for (int i = 0; i < threads; i++) jobs[i] = (take_job){from, to, index, width, n * i / threads, n * (i + 1) / threads};
    run_jobs(take_some, jobs, sizeof(take_job), threads);
}

/* Whether all values are finite, of 2 or 4 bytes each. */
int tl_finite(const void *values, int64_t n, int64_t width) {
    uint32_t bad = 0;
    if (width == 2) {
        const uint16_t *v = values;
        uint16_t some = 0;
        for (int64_t i = 0; i < n; i++) some |= (uint16_t)((v[i] & 0x7C00u) == 0x7C00u);
        bad = some;
    } else {
        const uint32_t *v = values;
        for (int64_t i = 0; i < n; i++) bad |= (v[i] & 0x7F800000u) == 0x7F800000u;
    }
    return !bad;
}
