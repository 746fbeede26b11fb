/* dataset_check.c: see dataset.h. Every file of every list is probed and decoded once, by threads that take the next
 * number from a counter; what is wrong with a file is kept at its number, so the report does not depend on the threads.
 */
#define _GNU_SOURCE
#include "runtime/host/dataset_parts.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_WORKERS = 64 };

typedef struct Check {
    const KdDataset *d;
    KdDataReport *r;
    pthread_mutex_t lock; /* of what follows, and of the report */
    int64_t next, n;
    char **finding; /* [n] */
    bool no_memory;
} Check;

static void find_list(const KdDataset *d, int64_t i, int *k, const char **path) {
    for (*k = 0; i >= d->list[*k].n; ++*k) {
        i -= d->list[*k].n;
    }
    *path = d->list[*k].path[i];
}

static void note_labels(KdDataReport *r, const KdImage *x) {
    for (int64_t i = 0; i < (int64_t)x->width * x->height; i++) {
        int v = x->bits == 16 ? ((const uint16_t *)x->samples)[i] : ((const uint8_t *)x->samples)[i];
        r->occurs[v / 8] |= (uint8_t)(1u << v % 8);
    }
}

static void note_kind(KdDataReport *r, const KdImageInfo *info) {
    r->gray += info->channels <= 2 && !info->palette ? 1 : 0;
    r->alpha += info->alpha ? 1 : 0;
    r->sixteen += info->bits == 16 ? 1 : 0;
}

static void note_size(KdDataReport *r, int w, int h) {
    r->min_w = r->min_w && r->min_w < w ? r->min_w : w;
    r->min_h = r->min_h && r->min_h < h ? r->min_h : h;
    r->max_w = r->max_w > w ? r->max_w : w;
    r->max_h = r->max_h > h ? r->max_h : h;
}

/* Of a picture as it is preprocessed: half of one where a file holds two. */
static bool crop_fits(const KdDataset *d, int k, const char *path, const KdImage *x, KdTrouble *t) {
    int w, h, width = x->width / (d->layout == KD_LAYOUT_ALIGNED || (d->half && k == 1) ? 2 : 1);
    if (width < 1) {
        return kd_trouble(t, false, "%s: %d pixel wide; expected two images side by side", path, x->width);
    }
    return kd_data_resized(&d->o, path, width, x->height, &w, &h, t);
}

/* One file, without the lock until something is to be noted. */
static void look_at(Check *c, int64_t i) {
    const KdDataset *d = c->d;
    const char *path;
    KdTrouble t;
    KdImage x = {0};
    KdImageInfo info = {0};
    int k;
    find_list(d, i, &k, &path);
    bool index = kd_data_is_index(d, k), label = index && k == 0;
    bool read = kd_image_probe(path, &info, &t) && kd_image_read(path, index ? KD_IMAGE_INDEX : KD_IMAGE_RGB8, &x, &t);
    bool right = read && (!label || kd_data_labels_ok(&d->o, path, &x, &t)) && crop_fits(d, k, path, &x, &t);
    pthread_mutex_lock(&c->lock);
    c->r->unreadable += read ? 0 : 1;
    c->r->wrong += read && !right ? 1 : 0;
    if (read) {
        note_size(c->r, x.width, x.height);
    }
    if (read && label) {
        note_labels(c->r, &x);
    }
    if (read && !index) {
        note_kind(c->r, &info);
    }
    if (!right) {
        c->finding[i] = strdup(t.text);
        c->no_memory = c->no_memory || !c->finding[i];
    }
    pthread_mutex_unlock(&c->lock);
    kd_image_free(&x);
}

static void *work(void *p) {
    Check *c = p;
    for (;;) {
        pthread_mutex_lock(&c->lock);
        int64_t i = c->next++;
        pthread_mutex_unlock(&c->lock);
        if (i >= c->n) {
            return NULL;
        }
        look_at(c, i);
    }
}

static void run(Check *c, int workers) {
    pthread_t thread[MAX_WORKERS];
    int n = 0, wanted = (workers < MAX_WORKERS ? workers : MAX_WORKERS) - 1;
    while (n < wanted && pthread_create(&thread[n], NULL, work, c) == 0) {
        n++;
    }
    work(c);
    for (int i = 0; i < n; i++) {
        pthread_join(thread[i], NULL);
    }
}

static bool push_line(KdDataReport *r, char *line) {
    if (!line || r->n_lines == INT32_MAX) {
        free(line);
        return false;
    }
    r->line[r->n_lines++] = line;
    return true;
}

static bool collect(Check *c) {
    KdDataReport *r = c->r;
    const KdDataList *u = &c->d->unmatched;
    r->line = calloc((size_t)(c->n + u->n) + 1, sizeof *r->line);
    bool ok = r->line && !c->no_memory;
    for (int64_t i = 0; ok && i < c->n; i++) {
        if (c->finding[i]) {
            ok = push_line(r, c->finding[i]);
            c->finding[i] = NULL;
        }
    }
    for (int64_t i = 0; ok && i < u->n; i++) {
        char *line = NULL;
        ok = asprintf(&line, "%s: no counterpart of that name", u->path[i]) >= 0 && push_line(r, line);
    }
    for (int v = 0; v < 65536; v++) {
        if (r->occurs[v / 8] >> v % 8 & 1) {
            r->label_min = r->labels ? r->label_min : v;
            r->label_max = v;
            r->labels++;
        }
    }
    return ok;
}

/* Of the folders that the lists are from. */
static bool count_other(const KdDataset *d, KdDataReport *r) {
    for (int k = 0; k < d->lists; k++) {
        char *folder = d->list[k].n ? strdup(d->list[k].path[0]) : NULL, *slash = folder ? strrchr(folder, '/') : NULL;
        if (slash) {
            *slash = '\0';
            kd_data_count_other(folder, r->other);
        }
        free(folder);
        if (d->list[k].n && !folder) {
            return false;
        }
    }
    return true;
}

bool kd_dataset_check(const KdDataset *d, int workers, KdDataReport *r, KdTrouble *t) {
    Check c = {.d = d, .r = r};
    *r = (KdDataReport){.items = d->count, .unmatched = d->unmatched.n, .label_min = -1, .label_max = -1};
    for (int k = 0; k < d->lists; k++) {
        c.n += d->list[k].n;
    }
    r->images = c.n;
    c.finding = calloc((size_t)c.n + 1, sizeof *c.finding);
    bool ok = c.finding;
    if (ok) {
        pthread_mutex_init(&c.lock, NULL);
        run(&c, workers);
        ok = collect(&c) && count_other(d, r);
        pthread_mutex_destroy(&c.lock);
    }
    for (int64_t i = 0; c.finding && i < c.n; i++) {
        free(c.finding[i]);
    }
    free(c.finding);
    if (!ok) {
        kd_data_report_free(r);
        return kd_trouble(t, true, "out of memory while looking over %s", d->root);
    }
    return true;
}

void kd_data_report_free(KdDataReport *r) {
    for (int i = 0; i < r->n_lines; i++) {
        free(r->line[i]);
    }
    free(r->line);
    r->line = NULL;
    r->n_lines = 0;
}
