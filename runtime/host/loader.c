/* loader.c: worker threads that make samples ahead. A ring of `ahead` slots: slot k holds sample number first + k, first + k +
 * ahead, ...; a worker takes the next number not taken yet once its slot is free. One lock, two conditions. */
#include "runtime/host/dataset.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

typedef enum SlotState { EMPTY, BUSY, READY, FAILED } SlotState;

typedef struct Slot {
    SlotState state;
    KdSample sample;
    KdTrouble trouble;
} Slot;

struct KdLoader {
    const KdDataset *d;
    int64_t first, taken, given; /* numbers from first: the next to make, the next to hand out */
    int ahead, workers;
    Slot *slot;
    pthread_t *thread;
    pthread_mutex_t lock;
    pthread_cond_t made, freed;
    bool stop;
    double waited;
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *work(void *user) {
    KdLoader *l = user;
    pthread_mutex_lock(&l->lock);
    for (;;) {
        while (!l->stop && l->taken - l->given >= l->ahead) {
            pthread_cond_wait(&l->freed, &l->lock);
        }
        if (l->stop) {
            break;
        }
        int64_t number = l->taken++;
        Slot *s = &l->slot[number % l->ahead];
        s->state = BUSY;
        pthread_mutex_unlock(&l->lock);
        bool ok = kd_dataset_sample(l->d, l->first + number, &s->sample, &s->trouble);
        pthread_mutex_lock(&l->lock);
        s->state = ok ? READY : FAILED;
        pthread_cond_broadcast(&l->made);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

KdLoader *kd_loader_new(const KdDataset *d, int64_t first, int workers, int ahead, KdTrouble *t) {
    KdLoader *l = calloc(1, sizeof *l);
    workers = workers < 1 ? 1 : workers;
    ahead = ahead < workers ? workers : ahead;
    if (l) {
        *l = (KdLoader){.d = d, .first = first, .ahead = ahead};
        l->slot = calloc((size_t)ahead, sizeof *l->slot);
        l->thread = calloc((size_t)workers, sizeof *l->thread);
    }
    if (!l || !l->slot || !l->thread) {
        if (l) {
            free(l->slot);
            free(l->thread);
        }
        free(l);
        kd_trouble(t, true, "out of memory for %d images ahead", ahead);
        return NULL;
    }
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->made, NULL);
    pthread_cond_init(&l->freed, NULL);
    while (l->workers < workers && pthread_create(&l->thread[l->workers], NULL, work, l) == 0) {
        l->workers++;
    }
    if (l->workers == 0) {
        kd_loader_free(l);
        kd_trouble(t, true, "cannot start a thread that decodes images");
        return NULL;
    }
    return l;
}

bool kd_loader_next(KdLoader *l, KdSample *s, KdTrouble *t) {
    double start = now();
    pthread_mutex_lock(&l->lock);
    Slot *slot = &l->slot[l->given % l->ahead];
    while (slot->state != READY && slot->state != FAILED) {
        pthread_cond_wait(&l->made, &l->lock);
    }
    bool ok = slot->state == READY;
    if (ok) {
        *s = slot->sample;
    } else { /* asked for again, it fails again: the slot is not given free */
        *t = slot->trouble;
        *s = (KdSample){0};
    }
    if (ok) {
        slot->state = EMPTY;
        l->given++;
        pthread_cond_broadcast(&l->freed);
    }
    l->waited += now() - start;
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
    pthread_cond_broadcast(&l->freed);
    pthread_mutex_unlock(&l->lock);
    for (int i = 0; i < l->workers; i++) {
        pthread_join(l->thread[i], NULL);
    }
    for (int i = 0; i < l->ahead; i++) {
        if (l->slot[i].state == READY) {
            kd_sample_free(&l->slot[i].sample);
        }
    }
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->made);
    pthread_cond_destroy(&l->freed);
    free(l->slot);
    free(l->thread);
    free(l);
}
