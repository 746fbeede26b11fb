/* loader.c: see dataset.h. A ring of `ahead` slots: sample k has slot k mod ahead. Workers take the next number as long
 * as it is less than `ahead` after the one that next will hand out, make the sample without the lock, and mark its slot
 * done; next waits for its slot. So at most `ahead` samples exist at a time, and the order does not depend on who is
 * quicker.
 */
#define _GNU_SOURCE
#include "runtime/host/dataset.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

typedef struct Slot {
    KdSample sample;
    KdTrouble trouble;
    bool done, ok;
} Slot;

struct KdLoader {
    const KdDataset *data;
    pthread_mutex_t lock;
    pthread_cond_t room, done; /* for workers; for next */
    int64_t to_make, to_take;
    int ahead, workers;
    bool stop;
    double waited;
    Slot *slot;
    pthread_t *thread;
};

static void *work(void *p) {
    KdLoader *l = p;
    pthread_mutex_lock(&l->lock);
    for (;;) {
        while (!l->stop && l->to_make - l->to_take >= l->ahead) {
            pthread_cond_wait(&l->room, &l->lock);
        }
        if (l->stop) {
            break;
        }
        int64_t k = l->to_make++;
        Slot *s = &l->slot[k % l->ahead];
        pthread_mutex_unlock(&l->lock);
        bool ok = kd_dataset_sample(l->data, k, &s->sample, &s->trouble);
        pthread_mutex_lock(&l->lock);
        s->ok = ok;
        s->done = true;
        pthread_cond_broadcast(&l->done);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* Signals stay with the threads that the caller knows. */
static bool start(KdLoader *l, int workers) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (l->workers < workers && pthread_create(&l->thread[l->workers], NULL, work, l) == 0) {
        l->workers++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return l->workers == workers;
}

KdLoader *kd_loader_new(const KdDataset *d, int64_t first, int workers, int ahead, KdTrouble *t) {
    if (workers < 1 || ahead < 1 || first < 0) {
        kd_trouble(t, false, "a loader needs at least one worker and one sample ahead, and numbers begin at 0");
        return NULL;
    }
    KdLoader *l = calloc(1, sizeof *l);
    if (!l) {
        kd_trouble(t, true, "out of memory for a loader");
        return NULL;
    }
    *l = (KdLoader){.data = d, .to_make = first, .to_take = first, .ahead = ahead};
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->room, NULL);
    pthread_cond_init(&l->done, NULL);
    l->slot = calloc((size_t)ahead, sizeof *l->slot);
    l->thread = calloc((size_t)workers, sizeof *l->thread);
    if (!l->slot || !l->thread || !start(l, workers)) {
        kd_trouble(t, true, "cannot start %d threads to decode images, %d samples ahead", workers, ahead);
        kd_loader_free(l);
        return NULL;
    }
    return l;
}

static double now(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

bool kd_loader_next(KdLoader *l, KdSample *s, KdTrouble *t) {
    pthread_mutex_lock(&l->lock);
    Slot *slot = &l->slot[l->to_take % l->ahead];
    if (!slot->done) {
        double since = now();
        while (!slot->done) {
            pthread_cond_wait(&l->done, &l->lock);
        }
        l->waited += now() - since;
    }
    bool ok = slot->ok;
    *s = slot->sample;
    if (!ok) {
        *t = slot->trouble;
    }
    slot->sample = (KdSample){0};
    slot->done = false;
    l->to_take++;
    pthread_cond_signal(&l->room);
    pthread_mutex_unlock(&l->lock);
    return ok;
}

double kd_loader_waited(const KdLoader *l) {
    return l->waited;
}

void kd_loader_free(KdLoader *l) {
    if (!l) {
        return;
    }
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_broadcast(&l->room);
    pthread_mutex_unlock(&l->lock);
    for (int i = 0; i < l->workers; i++) {
        pthread_join(l->thread[i], NULL);
    }
    for (int i = 0; l->slot && i < l->ahead; i++) {
        kd_sample_free(&l->slot[i].sample);
    }
    pthread_cond_destroy(&l->room);
    pthread_cond_destroy(&l->done);
    pthread_mutex_destroy(&l->lock);
    free(l->slot);
    free(l->thread);
    free(l);
}
