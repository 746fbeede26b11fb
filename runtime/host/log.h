/* log.h: what a training run writes down, for people and for their tools. Everything is appended a whole record at a time
 * and flushed, so that a killed run leaves readable files; opening an existing one cuts off a torn last record.
 *
 * A run that goes on after step `keep` (0: from the start) drops what later steps wrote before the interruption:
 * log.jsonl is cut back to steps <= keep (rewritten atomically); event files, of which TensorBoard reads all, are left,
 * and a new one is begun with a SessionLog START record at that step, which makes it drop stale events.
 */
#ifndef KD_HOST_LOG_H
#define KD_HOST_LOG_H

#include "runtime/host/image.h"

/* log.jsonl: {"ts":1700000000.0,"step":12,"epoch":1,"images_per_s":3.1,"loss":{"adv":0.3,"rec":8.1}}; NaN becomes null. */
typedef struct KdLog KdLog;
KdLog *kd_log_open(const char *path, int64_t keep, KdTrouble *t);
bool kd_log_step(KdLog *l, double unix_time, int64_t step, int64_t epoch, double images_per_s, const char *const *name,
                 const double *value, int n, KdTrouble *t);
/* What an evaluation after a step measured, a line of its own: {"ts":..., "step":12, "epoch":1,
 * "eval":{"S.psnr":23.1}}. */
bool kd_log_eval(KdLog *l, double unix_time, int64_t step, int64_t epoch, const char *const *name, const double *value,
                 int n, KdTrouble *t);
void kd_log_close(KdLog *l);

/* Reads it back, for the report. Values are NaN where a step has none of that name. */
typedef struct KdLogData {
    int n_steps, n_names;
    char **name;
    int64_t *step, *epoch;
    double *time, *rate; /* unix seconds; images/s */
    double *value; /* [n_names][n_steps] */
    int n_evals, n_metrics; /* of the evaluations' lines */
    char **metric;
    int64_t *eval_step;
    double *eval_value; /* [n_metrics][n_evals] */
} KdLogData;
bool kd_log_read(const char *path, KdLogData *out, KdTrouble *t);
void kd_log_data_free(KdLogData *d);

/* What a metric came to: the last value, the best, which is another thing, and the mean of the last few. false: it was
 * never a finite number. Larger is better of psnr, ssim and miou, whatever stands before the last dot of the name. */
typedef struct KdLogMetric {
    double last, best, mean;
    int64_t last_step, best_step;
    int of; /* how many the mean is of: at most 5 */
    bool more_is_better;
} KdLogMetric;
bool kd_log_metric(const KdLogData *d, int metric, KdLogMetric *m);

/* events.out.tfevents.SECONDS.HOST.PID.0 in folder; read by TensorBoard. */
typedef struct KdEvents KdEvents;
KdEvents *kd_events_open(const char *folder, int64_t keep, KdTrouble *t);
bool kd_events_scalar(KdEvents *e, double unix_time, int64_t step, const char *tag, double value, KdTrouble *t);
bool kd_events_image(KdEvents *e, double unix_time, int64_t step, const char *tag, const void *png, size_t n, int width,
                     int height, KdTrouble *t);
void kd_events_close(KdEvents *e);

#endif
