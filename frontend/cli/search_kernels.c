/* search_kernels.c: latency of a network from a table of measured kernels.
 *
 * A kernel is known by a hash of what it computes (KlKernel.identity: loops, shapes, tiles). Where
 * a network is measured, each of its kernels that the table does not have yet is added: the low
 * tenth of the rounds, a mean over its calls in the network. The prediction of another network is
 * the sum over its calls plus a fixed overhead, which is the median over measured networks of what
 * their runs took beyond that sum.
 *
 * Times are relative to those of the widest configuration in the same rounds; the file has seconds,
 * at the machine's best speed. It belongs to one processor, one number of threads and one version
 * of kdc; another's is refused.
 */
#include "frontend/cli/search.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct KdcKernels {
    KdcSearch *s;
    const char *path, *machine;
    KD_VEC(uint64_t) hash;
    KD_VEC(double) takes;     /* of one call */
    KD_VEC(double) overheads; /* of measured networks */
    KdMap index;              /* hash to place */
};

int kdc_kernels_count(const KdcKernels *t) { return t->hash.n; }

static void add_kernel(KdcKernels *t, uint64_t hash, double seconds) {
    uint64_t at;
    if (kd_map_get(&t->index, hash, &at)) {
        return;
    }
    kd_map_put(&t->index, hash, (uint64_t)t->hash.n);
    kd_push(t->s->p->cx, &t->hash, hash);
    kd_push(t->s->p->cx, &t->takes, seconds);
}

static bool is_ours(KdcKernels *t, const json_t *o) {
    const char *machine = json_string_value(json_object_get(o, "machine"));
    if (machine && strcmp(machine, t->machine) == 0) {
        return true;
    }
    kd_error(t->s->p->cx, 0, "%s: a table of kernels measured on '%s'; this is '%s'", t->path,
             machine ? machine : "an unknown machine", t->machine);
    kd_hint(t->s->p->cx, "--kernels FILE names another table, which is begun if it is not there");
    return false;
}

static bool read_table(KdcKernels *t) {
    KdTrouble trouble;
    json_error_t error;
    size_t n = 0, i;
    const char *name;
    json_t *v;
    if (access(t->path, F_OK) != 0 && errno == ENOENT) {
        return true;
    }
    char *text = kd_file_read(t->path, &n, &trouble);
    json_t *o = text ? json_loadb(text, n, 0, &error) : NULL;
    free(text);
    if (!o) {
        if (text) {
            kd_trouble(&trouble, false, "%s:%d: no table of kernels: %s", t->path, error.line,
                       error.text);
        }
        return kdc_cli_trouble(t->s->p, &trouble);
    }
    bool ok = is_ours(t, o);
    json_object_foreach(ok ? json_object_get(o, "kernels") : NULL, name, v) {
        char *end;
        uint64_t hash = strtoull(name, &end, 16);
        if (!*end && json_is_number(v) && json_number_value(v) >= 0) {
            add_kernel(t, hash, json_number_value(v) / t->s->anchor);
        }
    }
    json_array_foreach(ok ? json_object_get(o, "overheads") : NULL, i, v) {
        kd_push(t->s->p->cx, &t->overheads, json_number_value(v) / t->s->anchor);
    }
    json_decref(o);
    return ok;
}

KdcKernels *kdc_kernels_open(KdcSearch *s, const char *path) {
    KdContext *cx = s->p->cx;
    KdcKernels *t = KD_NEW(cx, KdcKernels);
    t->s = s;
    t->path = path;
    t->index = (KdMap){.cx = cx};
    int64_t threads = s->base.threads;
    t->machine = kd_format(cx, "%s, %" PRId64 " thread%s, kdc %s", s->p->host.cpu, threads,
                           threads == 1 ? "" : "s", KDC_VERSION);
    return read_table(t) ? t : NULL;
}

static double overhead(const KdcKernels *t) {
    double v[64];
    int n = t->overheads.n < KD_COUNT(v) ? t->overheads.n : KD_COUNT(v);
    if (n == 0) {
        return 0;
    }
    memcpy(v, t->overheads.v, sizeof *v * (size_t)n);
    return kdc_median(v, n);
}

bool kdc_kernels_knows(const KdcKernels *t, uint64_t hash) {
    uint64_t at;
    return kd_map_get(&t->index, hash, &at);
}

double kdc_kernels_predict(const KdcKernels *t, const KdcKernelUse *v, int n) {
    double sum = overhead(t);
    for (int i = 0; i < n; i++) {
        uint64_t at;
        if (!kd_map_get(&t->index, v[i].hash, &at)) {
            return NAN;
        }
        sum += v[i].calls * t->takes.v[at];
    }
    return sum;
}

void kdc_kernels_add(KdcKernels *t, const KdcKernelUse *v, const double *seconds, int n,
                     double run) {
    double sum = 0;
    for (int i = 0; i < n; i++) {
        add_kernel(t, v[i].hash, seconds[i]);
        sum += v[i].calls * seconds[i];
    }
    kd_push(t->s->p->cx, &t->overheads, run - sum);
}

bool kdc_kernels_save(KdcKernels *t) {
    KdTrouble trouble;
    json_t *o = json_object(), *kernels = json_object(), *overheads = json_array();
    for (int i = 0; i < t->hash.n; i++) {
        char name[32];
        snprintf(name, sizeof name, "%016" PRIx64, t->hash.v[i]);
        json_object_set_new(kernels, name, json_real(t->takes.v[i] * t->s->anchor));
    }
    for (int i = 0; i < t->overheads.n; i++) {
        json_array_append_new(overheads, json_real(t->overheads.v[i] * t->s->anchor));
    }
    json_object_set_new(o, "machine", json_string(t->machine));
    json_object_set_new(o, "unit", json_string("seconds of one call"));
    json_object_set_new(o, "overheads", overheads);
    json_object_set_new(o, "kernels", kernels);
    char *text = json_dumps(o, JSON_INDENT(1));
    json_decref(o);
    bool ok = text ? kd_file_write(t->path, text, strlen(text), &trouble)
                   : kd_trouble(&trouble, true, "out of memory for the table of kernels");
    free(text);
    return ok || kdc_cli_trouble(t->s->p, &trouble);
}
