/* cmd_train.c: kdc train FILE.kd[:SESSION] --data FOLDER: from a program and a folder of images to a trained student.
 *
 * Open, compile every variant of the step, plan (memory by adding up, time by running one step and taking it back), refuse what does
 * not fit, then step by step: samples, step, logs; now and then a sample grid and a checkpoint. Step t takes samples
 * (t - 1) * batch ... and the seed; nothing else decides what it does, so a run that goes on from a checkpoint gives the bits
 * of one that was never stopped.
 *
 * A loss that is not finite stops the run: the state of a few steps ago is taken back from memory, the steps since are run
 * again, and the faulty one is run with every value looked at, which names the first op that made it.
 */
#define _GNU_SOURCE /* asprintf */
#include "frontend/cli/eval.h"
#include "frontend/cli/train.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { RECENT = 16 }; /* steps between snapshots in memory */

typedef struct Train {
    KdcArgs *a;
    KdcProgram *p;
    KdcSession *s;
    KdcFiles files;
    const char *session, *folder;
    KdcFeed feed;
    KdDataset *data, *rest; /* rest: samples without a label, or NULL */
    KdLoader *loader, *rest_loader;
    KdcRunFolder out;
    KdcProgress progress;
    int64_t first, total, epoch_samples; /* steps first + 1 .. total are this run's */
    int64_t save_every, sample_every, saved; /* saved: step of the newest checkpoint; -1: none */
    int64_t at;                              /* the session's state is that after this step */
    double step_seconds;
    KdcStats stats;
    KdcTrainEval *eval; /* or NULL */
    int64_t eval_every;
    double eval_seconds; /* of all so far */
    /* logs of the latest step, and their running means */
    int n_logs;
    const char **log;
    double *value, *mean;
    /* the state after step `snapshot_step` */
    char *snapshot;
    int64_t snapshot_step;
    double decode_seconds; /* of one sample */
    char reason[160];      /* why it stopped */
    bool failed;           /* after a message in p */
    bool spoiled;          /* the session's state is no longer that after the last good step */
} Train;

static volatile sig_atomic_t interrupted; /* the signal's number */

static void on_signal(int number) {
    interrupted = number;
}

static void catch_signals(void) {
    struct sigaction act = {.sa_handler = on_signal, .sa_flags = SA_RESETHAND}; /* a second one ends it at once */
    sigemptyset(&act.sa_mask);
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
}

/* ---- snapshots -------------------------------------------------------------------------------------- */

/* Copies all that steps change, out of the session or back. */
static void copy_state(Train *t, bool back) {
    char *at = t->snapshot;
    for (int i = 0; i < kdc_session_count(t->s); i++) {
        KdcTensor *x = kdc_session_tensor(t->s, i);
        if (x->role == KDC_DATA || x->role == KDC_FROZEN) {
            continue;
        }
        size_t bytes = (size_t)kdc_tensor_bytes(x);
        memcpy(back ? x->data : at, back ? at : x->data, bytes);
        at += bytes;
    }
}

static void take_snapshot(Train *t, int64_t step) {
    copy_state(t, false);
    t->snapshot_step = step;
}

/* ---- data ------------------------------------------------------------------------------------------- */

/* Samples without a label come from a data set of their own: those that --labelled leaves out, or all when it leaves out none. */
static bool open_data(Train *t) {
    KdTrouble trouble;
    KdDataOptions o;
    if (!kdc_feed_options(t->p, t->a, &t->feed, &o)) {
        return false;
    }
    t->data = kd_dataset_open(&o, &trouble);
    if (!t->data) {
        return kdc_cli_trouble(t->p, &trouble);
    }
    t->epoch_samples = kd_dataset_of(t->data);
    if (t->feed.n_rest) {
        const uint64_t other_order = 0x756e6c6162656c; /* than that of the labelled ones */
        o.others = true;
        o.seed ^= other_order;
        t->rest = kd_dataset_open(&o, &trouble);
        if (!t->rest) {
            return kdc_cli_trouble(t->p, &trouble);
        }
    }
    return kdc_feed_fits(t->p, &t->feed, t->data, t->a->data);
}

static int workers(const Train *t) {
    return t->a->workers ? (int)t->a->workers : 2;
}

static int ahead(const Train *t) {
    return (int)t->feed.batch * 2 + workers(t);
}

static bool open_loaders(Train *t) {
    KdTrouble trouble;
    t->loader = kd_loader_new(t->data, t->first * t->feed.batch, workers(t), ahead(t), &trouble);
    if (t->loader && t->rest) {
        t->rest_loader = kd_loader_new(t->rest, t->first * t->feed.rest_batch, workers(t), ahead(t), &trouble);
    }
    return (t->loader && (!t->rest || t->rest_loader)) || kdc_cli_trouble(t->p, &trouble);
}

static int64_t epoch_of(const Train *t, int64_t step) {
    return 1 + (step - 1) * t->feed.batch / t->epoch_samples;
}

static bool feed_from(Train *t, bool rest, int64_t step, bool again) {
    KdSample s;
    KdTrouble trouble;
    int64_t batch = rest ? t->feed.rest_batch : t->feed.batch;
    for (int64_t i = 0; i < batch; i++) {
        bool ok = again ? kd_dataset_sample(rest ? t->rest : t->data, (step - 1) * batch + i, &s, &trouble)
                        : kd_loader_next(rest ? t->rest_loader : t->loader, &s, &trouble);
        if (!ok) {
            return kdc_cli_trouble(t->p, &trouble);
        }
        (rest ? kdc_feed_rest : kdc_feed_sample)(&t->feed, &s, i);
        kd_sample_free(&s);
    }
    return true;
}

/* The batch of `step`: from the loaders, which are there already; or, to do a step again, decoded now. */
static bool feed(Train *t, int64_t step, bool again) {
    double start = kdc_now();
    if (!feed_from(t, false, step, again) || (t->rest && !feed_from(t, true, step, again))) {
        return false;
    }
    t->decode_seconds = again ? (kdc_now() - start) / (double)t->feed.batch : t->decode_seconds;
    return true;
}

/* ---- the plan --------------------------------------------------------------------------------------- */

static int64_t tensors_bytes(const Train *t, bool data) {
    int64_t sum = 0;
    for (int i = 0; i < kdc_session_count(t->s); i++) {
        const KdcTensor *x = kdc_session_tensor(t->s, i);
        sum += (x->role == KDC_DATA) == data ? kdc_tensor_bytes(x) : 0;
    }
    return sum;
}

static int64_t changing_bytes(const Train *t) {
    int64_t sum = 0;
    for (int i = 0; i < kdc_session_count(t->s); i++) {
        const KdcTensor *x = kdc_session_tensor(t->s, i);
        sum += x->role == KDC_DATA || x->role == KDC_FROZEN ? 0 : kdc_tensor_bytes(x);
    }
    return sum;
}

static int64_t machine_memory(void) {
    return (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
}

static int64_t image_bytes(const Train *t) {
    int64_t sample = (int64_t)t->feed.height * t->feed.width * 3 * kd_dataset_images(t->data);
    return tensors_bytes(t, true) + (sample * ahead(t) + kd_dataset_decode_bytes(t->data) * workers(t)) * (t->rest ? 2 : 1);
}

typedef struct Plan {
    int64_t activations, weights, snapshot, images, program, total;
} Plan;

static const char *bytes_text(const Train *t, int64_t bytes) {
    return bytes < 10 << 20 ? kd_format(t->p->cx, "%.1f MiB", (double)bytes / (1 << 20))
                            : kd_format(t->p->cx, "%" PRId64 " MiB", (bytes + (1 << 19)) >> 20);
}

/* What the limit leaves for activations, of everything else that is there or will be. How much compiling will take is not
 * known; of a low limit it gets half. A third goes to drawn configurations, where there are any. */
static bool limit_activations(Train *t) {
    const int64_t compiling = 160 << 20;
    int64_t limit = t->a->memory_limit, rest = kdc_resident_bytes() + changing_bytes(t) + image_bytes(t);
    if (limit <= 0) {
        return true;
    }
    if (limit > rest) {
        kdc_session_limit_drawn(t->s, (size_t)(limit - rest) / 3);
        rest += (int64_t)kdc_session_drawn_bytes(t->s);
        t->p->o.memory_limit = limit - rest > 2 * compiling ? limit - rest - compiling : (limit - rest + 1) / 2;
        return true;
    }
    kd_error(t->p->cx, 0, "--memory-limit allows %s, but without any activations it takes %s: weights, states, their snapshot, images, "
             "program and compiler", bytes_text(t, limit), bytes_text(t, rest));
    t->p->status = KDC_INPUT;
    return false;
}

/* What is there already (program, compiler, weights) and what the steps will touch besides. */
static Plan memory_plan(const Train *t) {
    Plan m = {.activations = t->stats.memory, .weights = tensors_bytes(t, false), .snapshot = changing_bytes(t)};
    m.images = image_bytes(t);
    int64_t now = kdc_resident_bytes() + (int64_t)kdc_session_drawn_bytes(t->s), most = kdc_peak_bytes();
    m.program = now > m.weights ? now - m.weights : now;
    m.total = now + m.activations + m.snapshot + m.images;
    if (m.total < most) { /* compiling took more than training will */
        m.program += most - m.total;
        m.total = most;
    }
    return m;
}

/* Refuses before anything large is allocated. */
static bool fits(Train *t, const Plan *m) {
    int64_t limit = t->a->memory_limit ? t->a->memory_limit : machine_memory();
    if (limit <= 0 || m->total <= limit) {
        return true;
    }
    kd_error(t->p->cx, 0, "the plan needs %s, %s: %s activations, %s weights, states and their snapshot, %s images, "
             "%s program and compiler",
             bytes_text(t, m->total),
             kd_format(t->p->cx, t->a->memory_limit ? "--memory-limit allows %s" : "the machine has %s", bytes_text(t, limit)),
             bytes_text(t, m->activations), bytes_text(t, m->weights + m->snapshot), bytes_text(t, m->images), bytes_text(t, m->program));
    kd_hint(t->p->cx, "a smaller size or batch (-D size=..., -D batch=1) needs less");
    t->p->status = KDC_INPUT;
    return false;
}

static bool run_step(Train *t, int64_t step) {
    return kdc_session_step(t->s, step, epoch_of(t, step), t->a->seed) == KDC_OK;
}

/* Runs the first step once or twice, and takes it back: what a step costs on this machine. Images are decoded beside it, on the
 * same cores. */
static bool time_step(Train *t) {
    double best = INFINITY;
    take_snapshot(t, t->first);
    for (int i = 0; i < 2 && (i == 0 || best < 10); i++) {
        double start = kdc_now();
        if (!run_step(t, t->first + 1)) {
            return false;
        }
        double seconds = kdc_now() - start;
        best = seconds < best ? seconds : best;
        copy_state(t, true);
    }
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    t->step_seconds = best + t->decode_seconds * (double)t->feed.batch / (double)(cores > 1 ? cores : 1);
    return true;
}

static void add_pair(Train *t, KdcPagePair **list, int *n, const char *key, const char *value) {
    KdcPagePair *more = KD_NEW_ARRAY(t->p->cx, KdcPagePair, *n + 1);
    for (int i = 0; i < *n; i++) {
        more[i] = (*list)[i];
    }
    more[(*n)++] = (KdcPagePair){key, value};
    *list = more;
}

static void plan_rows(Train *t, const Plan *m) {
    KdContext *cx = t->p->cx;
    KdcPagePair *v = NULL;
    int n = 0;
    char time[32];
    kdc_duration(t->step_seconds * (double)(t->total - t->first), time, sizeof time);
    add_pair(t, &v, &n, "data", kd_format(cx, "%s: %s, %" PRId64 " samples", t->a->data, kd_layout_name(kd_dataset_layout(t->data)),
                                          t->epoch_samples));
    if (t->a->labelled > 0 || t->rest) {
        add_pair(t, &v, &n, "labels", kd_format(cx, "the truth of %" PRId64 " samples%s", kd_dataset_count(t->data),
                                                t->rest ? kd_format(cx, "; of %" PRId64 " the input alone", kd_dataset_count(t->rest)) : ""));
    }
    add_pair(t, &v, &n, "steps", kd_format(cx, "%" PRId64 "..%" PRId64 ", batch %" PRId64 " of %dx%d, %.3g epochs", t->first + 1, t->total,
                                           t->feed.batch, t->feed.height, t->feed.width,
                                           (double)(t->total * t->feed.batch) / (double)t->epoch_samples));
    add_pair(t, &v, &n, "code", kd_format(cx, "%d kernels, %d calls, compiled in %.2g s%s", t->stats.kernels, t->stats.calls,
                                          t->stats.seconds, t->stats.from_cache ? " (from the cache)" : ""));
    if (t->eval) {
        add_pair(t, &v, &n, "eval",
                 kd_format(cx, "%s, every %" PRId64 " steps", kdc_train_eval_text(t->eval), t->eval_every));
    }
    add_pair(t, &v, &n, "time", kd_format(cx, "%.3g s a step, %s in all", t->step_seconds, time));
    add_pair(t, &v, &n, "memory", kd_format(cx, "%s: %s activations (%s unplanned%s), %s weights and states, %s snapshot, %s images, "
                                                "%s program and compiler",
                                            bytes_text(t, m->total), bytes_text(t, m->activations), bytes_text(t, t->stats.memory_naive),
                                            t->stats.memory < t->stats.memory_planned ? kd_format(cx, ", %s planned, recomputed with %.1f %% more work",
                                                bytes_text(t, t->stats.memory_planned), 100 * t->stats.more_work) : "",
                                            bytes_text(t, m->weights), bytes_text(t, m->snapshot), bytes_text(t, m->images),
                                            bytes_text(t, m->program)));
    t->out.report.plan = v;
    t->out.report.n_plan = n;
}

/* Is d[i] hidden by a declaration of the file itself, or of an import that comes first, of the same name? */
static bool hidden(const KdDecl *d, int n, int i) {
    for (int k = 0; k < n && !d[i].main; k++) {
        if ((d[k].main || k < i) && strcmp(d[k].name, d[i].name) == 0) {
            return true;
        }
    }
    return false;
}

static void network_rows(Train *t) {
    int n, count = 0;
    const KdDecl *d = kd_lang_decls(t->p->lang, &n);
    KdcReportRow *row = KD_NEW_ARRAY(t->p->cx, KdcReportRow, n + 1);
    for (int i = 0; i < n; i++) {
        if (d[i].kind != KD_DECL_INSTANCE || hidden(d, n, i)) {
            continue;
        }
        int64_t parameters = 0;
        size_t length = strlen(d[i].name);
        for (int k = 0; k < kdc_session_count(t->s); k++) {
            const KdcTensor *x = kdc_session_tensor(t->s, k);
            bool mine = strncmp(x->name, d[i].name, length) == 0 && (x->name[length] == '.' || x->name[length] == '\0');
            parameters += mine && (x->role == KDC_WEIGHT || x->role == KDC_FROZEN) ? x->count : 0;
        }
        if (parameters) {
            KdMacs m;
            bool known = kdc_probe_macs(t->p, d[i].name, t->feed.height, t->feed.width, &m);
            row[count++] = (KdcReportRow){d[i].name, d[i].value, d[i].frozen, parameters, known ? m.t_in : -1};
        }
    }
    t->out.report.net = row;
    t->out.report.n_nets = count;
}

static void setting_rows(Train *t) {
    KdContext *cx = t->p->cx;
    KdcPagePair *v = NULL;
    int n = 0, decls;
    const KdDecl *d = kd_lang_decls(t->p->lang, &decls);
    add_pair(t, &v, &n, "program", kd_format(cx, "%s:%s (%08" PRIx32 ")", t->a->file, t->session, kdc_session_hash(t->s)));
    add_pair(t, &v, &n, "arguments", kdc_run_args_text(t->p, t->a));
    add_pair(t, &v, &n, "seed", kd_format(cx, "%" PRIu64, t->a->seed));
    for (int i = 0; i < decls; i++) {
        if (d[i].kind == KD_DECL_PARAM && d[i].main) {
            add_pair(t, &v, &n, d[i].name, d[i].value);
        }
    }
    add_pair(t, &v, &n, "machine", kd_format(cx, "%s, %s", t->p->host.cpu, t->p->host.triple));
    t->out.report.setting = v;
    t->out.report.n_settings = n;
    t->out.report.title = kd_format(cx, "%s: %s", t->a->file, t->session);
}

static void print_plan(const Train *t) {
    if (t->a->quiet) {
        return;
    }
    fprintf(stderr, "%s -> %s\n", t->out.report.title, t->folder);
    for (int i = 0; i < t->out.report.n_nets; i++) {
        const KdcReportRow *r = &t->out.report.net[i];
        fprintf(stderr, "  %-8s %s%s, %" PRId64 " parameters%s\n", r->name, r->frozen ? "frozen " : "", r->what, r->parameters,
                r->macs < 0 ? "" : kd_format(t->p->cx, ", %.4g G MACs", r->macs / 1e9));
    }
    for (int i = 0; i < t->out.report.n_plan; i++) {
        fprintf(stderr, "  %-8s %s\n", t->out.report.plan[i].key, t->out.report.plan[i].value);
    }
}

/* ---- steps ------------------------------------------------------------------------------------------ */

/* Values of this step's logs; NaN for those of blocks that did not run. Returns the first that ran and is not finite, or -1. */
static int read_logs(Train *t) {
    int bad = -1;
    for (int i = 0; i < t->n_logs; i++) {
        t->value[i] = NAN;
    }
    for (int k = 0; k < kdc_session_output_count(t->s); k++) {
        const KdcTensor *x = kdc_session_output(t->s, k);
        for (int i = 0; strncmp(x->name, "log.", 4) == 0 && i < t->n_logs; i++) {
            if (strcmp(t->log[i], x->name + 4) != 0 || x->dtype != KDC_F32 || x->count != 1) {
                continue;
            }
            double v = (double)*(const float *)x->data;
            t->value[i] = v;
            t->mean[i] = isnan(t->mean[i]) ? v : t->mean[i] + (v - t->mean[i]) * 0.05;
            bad = bad < 0 && !isfinite(v) ? i : bad;
        }
    }
    return bad;
}

static bool save(Train *t, int64_t step) {
    char seed[32], hash[16];
    snprintf(seed, sizeof seed, "%" PRIu64, t->a->seed);
    snprintf(hash, sizeof hash, "%08" PRIx32, kdc_session_hash(t->s));
    const char *const meta[] = {"kdc", KDC_VERSION, "seed", seed, "program", hash, "session", t->session};
    int errors = kd_error_count(t->p->cx);
    bool failed_before = t->p->status != KDC_OK;
    if (kdc_session_save(t->s, t->folder, step, meta, KD_COUNT(meta) / 2) != KDC_OK &&
        (!failed_before || kd_error_count(t->p->cx) > errors)) {
        return false;
    }
    t->saved = step;
    return true;
}

/* The first tensor that steps change and that is not finite; NULL: all are. */
static const char *spoiled_tensor(const Train *t) {
    for (int i = 0; i < kdc_session_count(t->s); i++) {
        const KdcTensor *x = kdc_session_tensor(t->s, i);
        const float *v = x->data;
        bool changing = x->role != KDC_DATA && x->role != KDC_FROZEN && x->dtype == KDC_F32;
        for (int64_t k = 0; changing && k < x->count; k++) {
            if (!isfinite(v[k])) {
                return x->name;
            }
        }
    }
    return NULL;
}

/* After `step`, `what` is not finite ("adv is NaN"): finds the op that made the first such value since the snapshot. The steps
 * since are run again, and the one that fails op by op. Always false. */
static bool fault(Train *t, int64_t step, const char *what) {
    KdContext *cx = t->p->cx;
    KdcFault f = {0};
    int64_t bad = t->snapshot_step + 1;
    const char *kept = t->saved >= 0 ? kd_format(cx, "the checkpoint of step %" PRId64 " is intact", t->saved) : "nothing was saved yet";
    t->spoiled = true;
    snprintf(t->reason, sizeof t->reason, "%s", what);
    copy_state(t, true);
    for (; bad < step; bad++) {
        if (!feed(t, bad, true) || !run_step(t, bad)) {
            return false;
        }
        if (spoiled_tensor(t)) { /* once more, from where it began */
            copy_state(t, true);
            for (int64_t k = t->snapshot_step + 1; k < bad; k++) {
                if (!feed(t, k, true) || !run_step(t, k)) {
                    return false;
                }
            }
            break;
        }
    }
    if (!feed(t, bad, true) || kdc_session_trace(t->s, bad, epoch_of(t, bad), t->a->seed, &f) != KDC_OK) {
        return false;
    }
    kd_error(cx, 0, "%s at step %" PRId64 " (epoch %" PRId64 "); %s", what, step, epoch_of(t, step), kept);
    if (f.found) {
        kd_note(cx, 0, "the first %s of step %" PRId64 " is made by %s%s%s", f.nan ? "NaN" : "infinity", bad, f.what, f.file ? ", at " : "",
                f.file ? kd_format(cx, "%s:%d:%d", f.file, f.line, f.column) : "");
    }
    return false;
}

static const char *not_finite(KdContext *cx, const char *name, double v) {
    return kd_format(cx, "%s is %s", name, isnan(v) ? "NaN" : v < 0 ? "minus infinity" : "infinite");
}

static bool due(int64_t step, int64_t every, int64_t total) {
    return step % every == 0 || step == total;
}

/* Metrics of the state after `step`. What goes wrong with them never ends the run; a signal ends them. */
static bool evaluate(Train *t, int64_t step) {
    const char *const *name;
    const double *value;
    int n;
    double start = kdc_now();
    kdc_progress_end(&t->progress);
    if (!kdc_train_eval_run(t->eval, step, &name, &value, &n)) {
        return true;
    }
    double took = kdc_now() - start;
    t->eval_seconds += took;
    t->progress.mark += took;
    t->progress.extra = took * (double)((t->total - step + t->eval_every - 1) / t->eval_every);
    if (n == 0) {
        return true;
    }
    if (!t->a->quiet) {
        fprintf(stderr, "step %" PRId64 ":", step);
        for (int i = 0; i < n; i++) {
            fprintf(stderr, "  %s %.4g", name[i], value[i]);
        }
        fprintf(stderr, "  (%.2g s)\n", took);
    }
    return kdc_run_folder_eval(&t->out, step, epoch_of(t, step), name, value, n) &&
           kdc_run_folder_report(&t->out, "running");
}

static bool one_step(Train *t, int64_t step) {
    if (!feed(t, step, false) || !run_step(t, step)) {
        return false;
    }
    t->at = step;
    int bad = read_logs(t);
    if (bad >= 0) {
        kdc_progress_end(&t->progress);
        return fault(t, step, not_finite(t->p->cx, t->log[bad], t->value[bad]));
    }
    bool evaluates = t->eval && due(step, t->eval_every, t->total); /* whatever happens there, the steps are saved */
    bool saves = evaluates || due(step, t->save_every, t->total), keeps = due(step, RECENT, t->total);
    const char *spoiled = saves || keeps ? spoiled_tensor(t) : NULL;
    if (spoiled) {
        kdc_progress_end(&t->progress);
        return fault(t, step, kd_format(t->p->cx, "%s is not finite any more", spoiled));
    }
    double took = kdc_now() - t->progress.start - t->eval_seconds;
    double rate = took > 0 ? (double)((step - t->first) * t->feed.batch) / took : 0;
    if (!kdc_run_folder_log(&t->out, step, epoch_of(t, step), rate, t->log, t->value, t->n_logs)) {
        return false;
    }
    if (!t->a->quiet) {
        kdc_progress_step(&t->progress, epoch_of(t, step), step, t->log, t->mean, t->n_logs);
    }
    if (keeps) {
        take_snapshot(t, step);
    }
    bool show = step == 1 || due(step, t->sample_every, t->total);
    return (!show || (kdc_run_folder_samples(&t->out, t->s, step, t->a->seed) && kdc_run_folder_report(&t->out, "running"))) &&
           (!saves || save(t, step)) && (!evaluates || evaluate(t, step));
}

/* true when all steps were run; *last: the latest that was. */
static bool loop(Train *t, int64_t *last) {
    kdc_progress_begin(&t->progress, stderr, isatty(2) == 1, t->first, t->total, t->feed.batch);
    if (t->eval && t->first && t->first % t->eval_every == 0 && !kdc_run_folder_evaluated(&t->out, t->first)) {
        t->failed = !evaluate(t, t->first); /* the run was stopped in the middle of it */
    }
    for (*last = t->first; *last < t->total && !interrupted; (*last)++) {
        if (!one_step(t, *last + 1)) {
            t->failed = true;
            break;
        }
    }
    kdc_progress_end(&t->progress);
    return *last == t->total;
}

/* ---- beginning and end ------------------------------------------------------------------------------ */

static void prepare_logs(Train *t) {
    t->n_logs = kdc_session_log_count(t->s);
    t->log = KD_NEW_ARRAY(t->p->cx, const char *, t->n_logs + 1);
    t->value = KD_NEW_ARRAY(t->p->cx, double, t->n_logs + 1);
    t->mean = KD_NEW_ARRAY(t->p->cx, double, t->n_logs + 1);
    for (int i = 0; i < t->n_logs; i++) {
        const char *name = kdc_session_log(t->s, i);
        t->log[i] = strncmp(name, "log.", 4) == 0 ? name + 4 : name;
        t->mean[i] = NAN;
    }
}

static bool has_frozen(const Train *t) {
    for (int i = 0; i < kdc_session_count(t->s); i++) {
        if (kdc_session_tensor(t->s, i)->role == KDC_FROZEN) {
            return true;
        }
    }
    return false;
}

/* A teacher's weights are in frozen.safetensors, the running means of its batch norms in the checkpoints: a run that is
 * stopped between writing the one and the other would go on with half of each. */
static bool refuse_weights(Train *t) {
    kd_error(t->p->cx, 0, "--weights %s: %s goes on with the weights it has, those of its frozen networks too, and takes no others",
             t->a->weights[0], t->folder);
    kd_hint(t->p->cx, "leave --weights out; or begin another run: --out FOLDER, --weights G=%s for a network G of this one, and the new",
            t->folder);
    return false;
}

/* Weights: from the checkpoint and frozen.safetensors of the folder; or from --weights and the seed. */
static bool fill(Train *t, const KdcRunArgs *r) {
    KdContext *cx = t->p->cx;
    const char *frozen = kd_format(cx, "%s/frozen.safetensors", t->folder);
    if (t->a->resume) {
        if (!kdc_run_folder_take(&t->out, t->p, t->folder) || kdc_session_restore(t->s, t->folder, &t->first) != KDC_OK) {
            return false;
        }
        if (t->first && r->other_weights) {
            return refuse_weights(t);
        }
        const char *other = r->hash != kdc_session_hash(t->s)                      ? "the program or a param is"
                            : r->samples && r->samples != t->epoch_samples ? "the number of images is"
                            : *r->changed                                 ? kd_format(cx, "%s: what is given now is", r->changed)
                                                                          : NULL;
        if (other) {
            kd_warning(cx, 0, "%s not what %s was begun with: the run goes on, but not bit for bit", other, t->folder);
        }
        if (!t->first) {
            kd_warning(cx, 0, "%s has no checkpoint: the run begins again at step 1", t->folder);
        }
        t->saved = t->first ? t->first : -1;
        if (t->first) {
            return !has_frozen(t) || kdc_session_restore_frozen(t->s, frozen) == KDC_OK;
        }
    }
    int n = kdc_session_count(t->s);
    KdcTensor **all = KD_NEW_ARRAY(t->p->cx, KdcTensor *, n + 1);
    for (int i = 0; i < n; i++) {
        all[i] = kdc_session_tensor(t->s, i);
    }
    return kdc_files_read(t->p, t->a, &t->files) && kdc_fill_weights(t->p, t->a, &t->files, false, all, n);
}

static void plan_length(Train *t) {
    const KdcArgs *a = t->a;
    int64_t steps = (a->epochs * t->epoch_samples + t->feed.batch - 1) / t->feed.batch;
    t->total = a->steps ? a->steps : steps;
}

static int64_t about(double n) {
    return n < 1 ? 1 : n > 1e9 ? 1000000000 : (int64_t)n;
}

/* A run that is there is never overwritten. */
static bool free_folder(KdcProgram *p, const KdcArgs *a, const char *folder) {
    struct stat st;
    if (stat(folder, &st) == 0 && !S_ISDIR(st.st_mode)) {
        kd_error(p->cx, 0, "--out %s is no folder", folder);
        return false;
    }
    if (a->resume || stat(kd_format(p->cx, "%s/kdc.json", folder), &st) != 0) {
        return true;
    }
    kd_error(p->cx, 0, "%s holds a run already: --resume goes on with it, --out FOLDER begins another", folder);
    return false;
}

/* Messages so far, such as warnings, before the plan. */
static void say_so_far(Train *t) {
    kdc_print_messages(t->p, stderr, t->a->color);
}

static bool start(Train *t, const KdcRunArgs *r) {
    if (!kdc_feed_plan(t->p, t->s, &t->feed) || !open_data(t) || !fill(t, r)) {
        return false;
    }
    plan_length(t);
    say_so_far(t);
    if (t->total <= t->first) {
        return true;
    }
    t->eval_every = t->a->eval_every ? t->a->eval_every : about((double)(t->total + 19) / 20);
    if (!kdc_train_eval_open(&t->eval, t->p, t->s, t->a, kd_layout_name(kd_dataset_layout(t->data)), t->feed.height,
                             t->feed.width, &interrupted)) {
        return false;
    }
    if (!limit_activations(t) || kdc_session_prepare(t->s, t->first + 1, t->total, &t->stats) != KDC_OK) {
        return false;
    }
    Plan m = memory_plan(t);
    if (!fits(t, &m)) {
        return false;
    }
    t->snapshot = malloc((size_t)m.snapshot + 1);
    if (!t->snapshot) {
        kd_raise(t->p->cx, KD_FAIL_MACHINE, "out of memory: %s for a snapshot", bytes_text(t, m.snapshot));
    }
    prepare_logs(t);
    if (!feed(t, t->first + 1, true) || !time_step(t)) {
        return false;
    }
    network_rows(t);
    setting_rows(t);
    plan_rows(t, &m);
    print_plan(t);
    t->save_every = t->a->save_every ? t->a->save_every : about(60 / t->step_seconds);
    t->sample_every = t->a->sample_every ? t->a->sample_every : about((double)(t->total + 19) / 20);
    const char *frozen = kd_format(t->p->cx, "%s/frozen.safetensors", t->folder);
    KdcRunArgs now = {.hash = kdc_session_hash(t->s), .samples = t->epoch_samples};
    return kdc_run_folder_take(&t->out, t->p, t->folder) && free_folder(t->p, t->a, t->folder) &&
           kdc_run_args_write(t->p, t->folder, t->a, &now) && kdc_run_folder_open(&t->out, t->first) &&
           (!(t->a->labelled > 0) || kdc_run_folder_labelled(&t->out, t->data)) &&
           (t->first || !has_frozen(t) || kdc_session_save_frozen(t->s, frozen) == KDC_OK) && open_loaders(t);
}

/* What drawing a configuration each step cost beside the steps themselves. */
static void print_drawn(const Train *t) {
    KdcDrawnStats d = kdc_session_drawn(t->s);
    if (d.count) {
        fprintf(stderr, "%" PRId64 " configurations compiled, %.2g s each (%" PRId64 " new kernels in all); a step takes %.2g s\n", d.count,
                d.seconds / (double)d.count, d.kernels, t->step_seconds);
    }
}

static bool work(Train *t, const KdcRunArgs *r) {
    int64_t last;
    t->s = kdc_session(t->p, t->session, &(KdcShapes){.train = true});
    if (!t->s || !start(t, r)) {
        return false;
    }
    if (t->total <= t->first) {
        fprintf(stderr, "%s has done %" PRId64 " steps, all that were asked for; --steps N goes on to N\n", t->folder, t->first);
        return true;
    }
    catch_signals();
    t->at = t->first;
    bool done = loop(t, &last);
    char state[256];
    if (!t->spoiled && t->at > t->first && t->saved != t->at) { /* an image that cannot be read is no reason to lose steps */
        t->failed = !save(t, t->at) || t->failed;
    }
    snprintf(state, sizeof state, t->failed ? "stopped at step %" PRId64 "%s%s" : done ? "finished: %" PRId64 " steps" : "interrupted after step %" PRId64,
             t->failed ? last + 1 : last, *t->reason ? ": " : "", t->reason);
    kdc_run_folder_report(&t->out, state);
    if (!t->a->quiet && t->eval) {
        kdc_run_folder_metrics(&t->out, stderr);
    }
    if (!t->a->quiet) {
        fprintf(stderr, "%s; peak memory %s, waited %.2g s for images\n%s/report.html\n", state, bytes_text(t, kdc_peak_bytes()),
                kd_loader_waited(t->loader) + (t->rest_loader ? kd_loader_waited(t->rest_loader) : 0), t->folder);
        print_drawn(t);
    }
    return !t->failed;
}

/* The session meant: the named one, or the only one of the file. */
static const char *session_name(KdcProgram *p, const KdcArgs *a) {
    const char *found = NULL;
    KdStr names = {.cx = p->cx};
    int n, count = 0;
    const KdDecl *d = kd_lang_decls(p->lang, &n);
    for (int i = 0; i < n; i++) {
        if (d[i].kind != KD_DECL_SESSION || (!d[i].main && !a->name) || (a->name && strcmp(d[i].name, a->name) != 0)) {
            continue;
        }
        kd_str_printf(&names, "%s%s", count++ ? ", " : "", d[i].name);
        found = d[i].name;
    }
    if (count == 1) {
        return found;
    }
    if (count > 1) {
        kd_error(p->cx, 0, "%s has several sessions: %s; which? name it: %s:NAME", a->file, names.s, a->file);
    } else {
        kd_error(p->cx, 0, a->name ? "%s has no session called %s" : "%s has no session to train", a->file, a->name);
    }
    return NULL;
}

static int train(KdcArgs *a, const char *folder, const KdcRunArgs *r) {
    KdcWatch w;
    int code;
    KdcProgram *p = kdc_cli_open(a, &w, &code);
    if (!p) {
        return code;
    }
    Train t = {.a = a, .p = p, .saved = -1, .snapshot_step = -1};
    volatile bool ok = false;
    KdLanding l;
    if (KD_TRY(p->cx, l)) {
        t.session = w.unit = session_name(p, a);
        t.folder = folder ? folder : kd_format(p->cx, "runs/%s", t.session ? t.session : "");
        ok = t.session && free_folder(p, a, t.folder) && work(&t, r);
        kd_landing_pop(p->cx);
    } else {
        kdc_failed(p);
    }
    kdc_train_eval_close(t.eval);
    kd_loader_free(t.loader);
    kd_loader_free(t.rest_loader);
    kd_dataset_free(t.data);
    kd_dataset_free(t.rest);
    kdc_run_folder_close(&t.out);
    kdc_files_free(&t.files);
    free(t.snapshot);
    kdc_settle(p, 0);
    code = kdc_cli_close(a, &w, p, ok);
    return code == 0 && interrupted ? 128 + interrupted : code;
}

/* runs/SESSION needs the session's name, which needs the program. NULL after messages. */
static char *default_folder(const KdcArgs *a, int *code) {
    KdcWatch w;
    KdcProgram *p = kdc_cli_open(a, &w, code);
    const char *session = p ? session_name(p, a) : NULL;
    char *folder = NULL;
    if (session && asprintf(&folder, "runs/%s", session) < 0) {
        folder = NULL;
    }
    if (p) {
        kdc_settle(p, 0);
        *code = kdc_cli_close(a, &w, p, folder != NULL);
    }
    return folder;
}

static int check_eval(const KdcArgs *a) {
    bool asked[KDC_METRICS];
    bool any = a->metrics || a->against || a->eval_every || a->eval_data || a->eval_phase || a->eval_h ||
               a->eval_stored || a->eval_pictures || a->ref || a->inception || a->features || a->feature_weights;
    if (any && !a->n_evals) {
        return kdc_usage_error(a, "which network is to be evaluated? --eval NET");
    }
    return kdc_eval_metrics(a, asked);
}

int kdc_cmd_train(const KdcArgs *given) {
    KdcArgs a = *given;
    KdcRunArgs stored = {0};
    KdTrouble trouble;
    int code = 0;
    char *folder = a.output ? strdup(a.output) : default_folder(&a, &code);
    if (!folder) {
        return code ? code : 3;
    }
    if (a.resume && !kdc_run_args_read(folder, &a, &stored, &trouble)) {
        fprintf(stderr, "kdc: error: %s: nothing to resume: %s\n", folder, trouble.text);
        code = trouble.machine ? 3 : 1;
    } else if (!a.data) {
        code = kdc_usage_error(&a, "which images? --data FOLDER");
    } else if (!a.steps && !a.epochs) {
        code = kdc_usage_error(&a, "how long? --epochs N or --steps N");
    } else if (a.steps && a.epochs) {
        code = kdc_usage_error(&a, "--epochs %" PRId64 " and --steps %" PRId64 ": give one", a.epochs, a.steps);
    } else {
        code = check_eval(&a);
        code = code ? code : train(&a, folder, &stored);
    }
    kdc_run_args_free(&a, given, &stored);
    free(folder);
    return code;
}
