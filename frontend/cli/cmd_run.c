/* cmd_run.c: kdc run: an image, or a folder of them, through a network.
 *
 * Worker threads decode what comes next and encode and write what is done, while the verb's own thread runs the network
 * on one image after the other, in the order of their names. At most AHEAD images wait in front of the network and as many
 * behind it for each worker. What the threads do decides only when something happens, never what is in a result.
 */
#include "frontend/cli/picture.h"
#include "frontend/cli/report.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { AHEAD = 2 };

typedef enum Stage { WAITING, READING, READ, RUNNING, RAN, WRITING, DONE } Stage;

typedef struct Job {
    const char *in, *out;
    Stage stage;
    bool ok;   /* of the last thing that was done */
    bool said; /* that it was not */
    KdImage image, result;
    KdTrouble trouble;
} Job;

typedef struct Run {
    const KdcArgs *a;
    KdcProgram *p;
    KdcFiles files;
    KdcPictureNet *net;
    bool folder; /* --in is one */
    KD_VEC(Job) jobs;
    const char **text; /* of the PNG files */
    int n_text;

    pthread_mutex_t lock; /* of the jobs' stages and what follows */
    pthread_cond_t changed;
    int next_read, taken, writing; /* jobs: to be read next; taken by the network; being or to be written */
    bool stop;                     /* nothing more is to be read */
    bool disk;                     /* a result could not be written for want of the machine's means */

    int64_t done, failed, padded, sizes;
    bool machine; /* the machine was at fault with one of those that failed */
    double network, start;
} Run;

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig) {
    (void)sig;
    interrupted = 1;
}

/* The second time a signal ends the process as it always does. */
static void catch_interrupts(void) {
    struct sigaction s = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND | SA_RESTART};
    interrupted = 0;
    sigemptyset(&s.sa_mask);
    sigaction(SIGINT, &s, NULL);
    sigaction(SIGTERM, &s, NULL);
}

/* ---- what goes where ------------------------------------------------------------------------------------ */

static int by_name(const void *x, const void *y) {
    return strcmp(((const Job *)x)->in, ((const Job *)y)->in);
}

static bool list_folder(Run *r) {
    KdContext *cx = r->p->cx;
    const char *folder = r->a->in;
    size_t end = strlen(folder);
    DIR *d = opendir(folder);
    KdTrouble t;
    if (!d) {
        kd_trouble(&t, true, "cannot read the folder %s: %s", folder, strerror(errno));
        return kdc_cli_trouble(r->p, &t);
    }
    for (struct dirent *e; (e = readdir(d));) {
        const char *path = kd_format(cx, "%s%s%s", folder, folder[end - 1] == '/' ? "" : "/", e->d_name);
        if (e->d_name[0] != '.' && kd_image_name(e->d_name) && !kdc_cli_is_folder(path)) {
            Job j = {.in = path, .out = kdc_cli_result_path(cx, r->a->output, path)};
            kd_push(cx, &r->jobs, j);
        }
    }
    closedir(d);
    if (r->jobs.n == 0) {
        kd_error(cx, 0, "%s: no images (.png, .jpg, .jpeg) in this folder", folder);
        return false;
    }
    qsort(r->jobs.v, (size_t)r->jobs.n, sizeof *r->jobs.v, by_name);
    return true;
}

static int by_result(const void *x, const void *y) {
    return strcmp((*(Job *const *)x)->out, (*(Job *const *)y)->out);
}

/* No two images may become one file, and none may become an image that is to be read. */
static bool check_results(Run *r) {
    int n = r->jobs.n;
    Job **sorted = KD_NEW_ARRAY(r->p->cx, Job *, n + 1);
    for (int i = 0; i < n; i++) {
        sorted[i] = &r->jobs.v[i];
    }
    qsort(sorted, (size_t)n, sizeof *sorted, by_result);
    for (int i = 1; i < n; i++) {
        if (strcmp(sorted[i - 1]->out, sorted[i]->out) == 0) {
            kd_error(r->p->cx, 0, "%s and %s would both become %s", sorted[i - 1]->in, sorted[i]->in, sorted[i]->out);
            kd_hint(r->p->cx, "rename one of them");
            return false;
        }
    }
    for (int i = 0; i < n; i++) {
        for (int k = 0; access(r->jobs.v[i].out, F_OK) == 0 && k < n; k++) {
            if (kdc_cli_same_file(r->jobs.v[i].out, r->jobs.v[k].in)) {
                kd_error(r->p->cx, 0, "%s would be overwritten by the result of %s", r->jobs.v[k].in, r->jobs.v[i].in);
                kd_hint(r->p->cx, "give another --out");
                return false;
            }
        }
    }
    return true;
}

static bool list_jobs(Run *r) {
    KdContext *cx = r->p->cx;
    r->folder = kdc_cli_is_folder(r->a->in);
    if (!r->folder) {
        bool into = kdc_cli_is_folder(r->a->output) || r->a->output[strlen(r->a->output) - 1] == '/';
        Job j = {.in = r->a->in, .out = into ? kdc_cli_result_path(cx, r->a->output, r->a->in) : r->a->output};
        if (!into && !kdc_cli_ends_in(j.out, ".png")) {
            kd_error(cx, 0, "%s: results are PNG files: the name must end in .png, or be a folder", j.out);
            return false;
        }
        kd_push(cx, &r->jobs, j);
        return check_results(r) && (!into || kdc_cli_make_folder(r->p, r->a->output));
    }
    if (kdc_cli_same_file(r->a->in, r->a->output)) {
        kd_error(cx, 0, "%s is the folder with the images: results need another", r->a->output);
        return false;
    }
    return list_folder(r) && check_results(r) && kdc_cli_make_folder(r->p, r->a->output);
}

/* ---- threads -------------------------------------------------------------------------------------------- */

static bool resize(const Run *r, KdImage *x, KdTrouble *t) {
    KdImage to;
    if (!r->a->height || (x->height == r->a->height && x->width == r->a->width)) {
        return true;
    }
    KdFilter filter = kdc_picture_want(r->net) == KD_IMAGE_INDEX ? KD_FILTER_NEAREST : KD_FILTER_BICUBIC;
    if (!kd_image_resize(x, (int)r->a->width, (int)r->a->height, filter, &to, t)) {
        return false;
    }
    kd_image_free(x);
    *x = to;
    return true;
}

static void do_read(const Run *r, Job *j) {
    j->ok = kd_image_read(j->in, kdc_picture_want(r->net), &j->image, &j->trouble) && resize(r, &j->image, &j->trouble);
}

static void do_write(const Run *r, Job *j) {
    j->ok = kd_png_write(j->out, &j->result, r->text, r->n_text, &j->trouble);
    kd_image_free(&j->result);
    j->result = (KdImage){0};
}

/* With the lock: what a worker does next; NULL: nothing now. Writing goes first, so that results do not pile up. */
static Job *next_work(Run *r) {
    for (int i = 0; i < r->taken && r->writing; i++) {
        if (r->jobs.v[i].stage == RAN) {
            r->jobs.v[i].stage = WRITING;
            return &r->jobs.v[i];
        }
    }
    if (!r->stop && r->next_read < r->jobs.n && r->next_read < r->taken + AHEAD * (int)r->a->workers) {
        r->jobs.v[r->next_read].stage = READING;
        return &r->jobs.v[r->next_read++];
    }
    return NULL;
}

static void *worker(void *user) {
    Run *r = user;
    pthread_mutex_lock(&r->lock);
    for (;;) {
        Job *j = next_work(r);
        if (!j && r->stop && !r->writing) {
            break;
        }
        if (!j) {
            pthread_cond_wait(&r->changed, &r->lock);
            continue;
        }
        bool reading = j->stage == READING;
        pthread_mutex_unlock(&r->lock);
        if (reading) {
            do_read(r, j);
        } else {
            do_write(r, j);
        }
        pthread_mutex_lock(&r->lock);
        j->stage = reading ? READ : DONE;
        r->writing -= !reading;
        r->disk = r->disk || (!reading && !j->ok && j->trouble.machine);
        pthread_cond_broadcast(&r->changed);
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

/* The next job, read; NULL when there is none or it is time to stop. */
static Job *take(Run *r) {
    Job *j = NULL;
    pthread_mutex_lock(&r->lock);
    while (r->taken < r->jobs.n && !interrupted && !r->disk) {
        Job *next = &r->jobs.v[r->taken];
        if (next->stage == READ && r->writing < AHEAD * (int)r->a->workers) {
            j = next;
            j->stage = RUNNING;
            r->taken++;
            pthread_cond_broadcast(&r->changed);
            break;
        }
        pthread_cond_wait(&r->changed, &r->lock);
    }
    pthread_mutex_unlock(&r->lock);
    return j;
}

static void hand_on(Run *r, Job *j, bool ok) {
    pthread_mutex_lock(&r->lock);
    j->stage = ok ? RAN : DONE;
    j->ok = ok;
    r->writing += ok;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

/* ---- the network ----------------------------------------------------------------------------------------- */

static void clear_line(const Run *r) {
    if (!r->a->quiet && isatty(STDERR_FILENO)) {
        fprintf(stderr, "\r\033[K");
    }
}

static void progress(const Run *r) {
    char left[32];
    double took = kdc_now() - r->start;
    if (r->a->quiet || r->jobs.n < 2 || !isatty(STDERR_FILENO) || r->taken == 0) {
        return;
    }
    kdc_duration(took / r->taken * (r->jobs.n - r->taken), left, sizeof left);
    fprintf(stderr, "\r%d/%d images  %.1f images/s  %s left\033[K", r->taken, r->jobs.n, r->taken / took, left);
    fflush(stderr);
}

static void say(Run *r, Job *j) {
    clear_line(r);
    j->said = true;
    bool named = strstr(j->trouble.text, j->in) || strstr(j->trouble.text, j->out);
    fprintf(stderr, "%skdc: error:%s %s%s%s\n", r->a->color ? "\033[1;31m" : "", r->a->color ? "\033[0m" : "",
            named ? "" : j->in, named ? "" : ": ", j->trouble.text);
    r->failed++;
    r->machine = r->machine || j->trouble.machine;
}

static bool run_one(Run *r, Job *j) {
    KdcPictureRun one;
    int height = j->image.height, width = j->image.width;
    bool ok = kdc_picture_run(r->net, &j->image, &j->result, &one, &j->trouble);
    kd_image_free(&j->image);
    j->image = (KdImage){0};
    r->network += one.seconds;
    if (!ok) {
        return false;
    }
    bool padded = one.height != height || one.width != width;
    r->padded += padded;
    r->sizes += one.compiled;
    if (r->a->verbose) {
        clear_line(r);
        fprintf(stderr, "%s: %d x %d", j->in, width, height);
        if (padded) {
            fprintf(stderr, ", mirrored to %d x %d", one.width, one.height);
        }
        fprintf(stderr, ", %.1f ms%s\n", 1e3 * one.seconds, one.compiled ? ", compiled for this size" : "");
    }
    return true;
}

/* Runs the network on all that can be read. false: it can go on with none. */
static bool run_all(Run *r) {
    for (Job *j; (j = take(r));) {
        bool read = j->ok, ok = read && run_one(r, j);
        if (!ok && (kdc_settle(r->p, 0), kdc_status(r->p) != KDC_OK)) {
            hand_on(r, j, false);
            return false;
        }
        if (!ok) {
            say(r, j);
        }
        hand_on(r, j, ok);
        progress(r);
    }
    return true;
}

static void finish(Run *r) {
    pthread_mutex_lock(&r->lock);
    r->stop = true;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

static void count_results(Run *r) {
    clear_line(r);
    for (int i = 0; i < r->taken; i++) {
        Job *j = &r->jobs.v[i];
        if (j->stage == DONE && j->ok) {
            r->done++;
        } else if (j->stage == DONE && !j->said && *j->trouble.text) { /* could not be written */
            say(r, j);
        }
    }
    for (int i = 0; i < r->jobs.n; i++) {
        kd_image_free(&r->jobs.v[i].image);
        kd_image_free(&r->jobs.v[i].result);
    }
}

/* In a landing of its own: whatever fails, the threads end before r does. */
static bool run_landed(Run *r) {
    volatile bool ok = false;
    KdLanding l;
    if (KD_TRY(r->p->cx, l)) {
        ok = run_all(r);
        kd_landing_pop(r->p->cx);
    } else {
        kdc_failed(r->p);
    }
    return ok;
}

static bool run_threads(Run *r) {
    pthread_t thread[64];
    int n = 0;
    KdTrouble t;
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->changed, NULL);
    r->start = kdc_now();
    while (n < (int)r->a->workers && pthread_create(&thread[n], NULL, worker, r) == 0) {
        n++;
    }
    if (n == 0) {
        kd_trouble(&t, true, "cannot start a thread");
        kdc_cli_trouble(r->p, &t);
    }
    bool ok = n > 0 && run_landed(r);
    finish(r);
    for (int i = 0; i < n; i++) {
        pthread_join(thread[i], NULL);
    }
    pthread_cond_destroy(&r->changed);
    pthread_mutex_destroy(&r->lock);
    count_results(r);
    return ok;
}

/* ---- the verb ---------------------------------------------------------------------------------------- */

static void make_text(Run *r) {
    KdContext *cx = r->p->cx;
    KdStr weights = {.cx = cx};
    for (int i = 0; i < r->files.weights.n; i++) {
        const char *file = r->files.weights.v[i].file, *base = strrchr(file, '/');
        kd_str_printf(&weights, "%s%s", i ? ", " : "", base ? base + 1 : file);
    }
    const char *base = strrchr(r->a->file, '/');
    r->text = KD_NEW_ARRAY(cx, const char *, 6);
    r->text[r->n_text++] = "Software";
    r->text[r->n_text++] = "kdc " KDC_VERSION;
    r->text[r->n_text++] = "Network";
    r->text[r->n_text++] = kd_format(cx, "%s:%s", base ? base + 1 : r->a->file, r->a->name);
    if (weights.n) {
        r->text[r->n_text++] = "Weights";
        r->text[r->n_text++] = weights.s;
    }
}

/* Looks at the network with the size of the first image whose head can be read. */
static bool open_net(Run *r) {
    KdImageInfo info = {0};
    KdTrouble t;
    for (int i = 0; i < r->jobs.n && !info.width; i++) {
        if (!kd_image_probe(r->jobs.v[i].in, &info, &t)) {
            info = (KdImageInfo){0};
        }
    }
    int height = r->a->height ? (int)r->a->height : info.height, width = r->a->width ? (int)r->a->width : info.width;
    r->net = kdc_picture_net(r->p, r->a, &r->files, r->a->name, height, width);
    return r->net != NULL;
}

static void summary(const Run *r) {
    double took = kdc_now() - r->start;
    if (r->a->quiet || r->done == 0) {
        return;
    }
    printf("%" PRId64 " image%s to %s: %.1f images/s, %.1f ms an image in %s", r->done, r->done == 1 ? "" : "s",
           r->a->output, (double)r->done / took, 1e3 * r->network / (double)r->done, r->a->name);
    if (r->sizes > 1) {
        printf(", compiled for %" PRId64 " sizes", r->sizes);
    }
    if (r->padded) {
        printf(", %" PRId64 " mirrored to a size that %s takes", r->padded, r->a->name);
    }
    printf("\n");
}

static bool work(Run *r) {
    KdContext *cx = r->p->cx;
    KdcArgs tensors = *r->a;
    tensors.in = NULL; /* here it names pictures */
    if (!kdc_files_read(r->p, &tensors, &r->files) || !list_jobs(r) || !open_net(r)) {
        return false;
    }
    if (r->a->limit && r->a->limit < r->jobs.n) {
        r->jobs.n = (int)r->a->limit;
    }
    make_text(r);
    catch_interrupts();
    bool ok = run_threads(r);
    summary(r);
    if (ok && r->failed && r->folder) {
        kd_error(cx, 0, "%" PRId64 " of %d images failed", r->failed, r->jobs.n);
    }
    return ok && !r->failed;
}

int kdc_cmd_run(const KdcArgs *args) {
    KdcArgs a = *args;
    KdcWatch w;
    int code = kdc_cli_check_pictures(&a);
    if (code) {
        return code;
    }
    a.workers = a.workers ? a.workers : 2;
    KdcProgram *p = kdc_cli_open(&a, &w, &code);
    if (!p) {
        return code;
    }
    w.unit = a.name;
    Run r = {.a = &a, .p = p};
    volatile bool ok = false;
    KdLanding l;
    if (KD_TRY(p->cx, l)) {
        ok = work(&r);
        kd_landing_pop(p->cx);
    } else {
        kdc_failed(p);
    }
    kdc_picture_free(r.net);
    kdc_files_free(&r.files);
    kdc_settle(p, 0);
    if (r.machine && kdc_status(p) != KDC_MACHINE) {
        p->status = KDC_MACHINE;
    }
    code = kdc_cli_close(&a, &w, p, ok);
    return interrupted ? 130 : code;
}
