/* explain.c: see explain.h. In: a unit after its passes. Out: text or JSON; estimates in milliseconds of one core. */
#include "frontend/cli/explain.h"

#include "passes/explain.h"

static KdExplanation explain(const KdcProgram *p, const KdcUnit *u, const KdTarget *t) {
    KdPassOptions o = kdc_pass_options(p, t);
    return kd_schedule_explain(u->result.fusion, &o);
}

/* " 1.82 ms", " 2013 ms" */
static void add_estimate(KdStr *s, double seconds) {
    double ms = 1e3 * seconds;
    kd_str_printf(s, " %.*f ms", ms < 1 ? 4 : ms < 10 ? 2 : ms < 100 ? 1 : 0, ms);
}

void kdc_cli_explain_text(KdStr *s, const KdcProgram *p, const KdcUnit *u, const KdTarget *t) {
    KdExplanation all = explain(p, u, t);
    kd_str_printf(s, "\n%s: schedules (estimates are the cost model's, of one core)\n", u->name);
    for (int i = 0; i < all.n; i++) {
        const KdExplained *e = &all.v[i];
        kd_str_printf(s, "%s %s%s%s", kd_op_info[e->op].name, e->shape, *e->place ? "  " : "", e->place);
        if (e->count > 1) {
            kd_str_printf(s, " and %d more", e->count - 1);
        }
        kd_str_printf(s, "\n    %s", e->schedule);
        if (e->seconds > 0) {
            add_estimate(s, e->seconds);
        }
        kd_str_printf(s, ", %s%s%s", e->why, *e->plan ? ": " : "", e->plan);
        for (int k = 0; k < e->others.n; k++) {
            kd_str_printf(s, "%s%s", k ? ", " : "; not ", e->others.v[k].schedule);
            add_estimate(s, e->others.v[k].seconds);
        }
        kd_str_add(s, "\n", 1);
    }
    if (!all.n) {
        kd_str_printf(s, "nothing in it needs one\n");
    }
}

json_t *kdc_cli_explain_json(const KdcProgram *p, const KdcUnit *u, const KdTarget *t) {
    KdExplanation all = explain(p, u, t);
    json_t *list = json_array();
    for (int i = 0; i < all.n; i++) {
        const KdExplained *e = &all.v[i];
        json_t *others = json_array();
        for (int k = 0; k < e->others.n; k++) {
            json_array_append_new(others, json_pack("{s:s, s:f}", "schedule", e->others.v[k].schedule, "ms",
                                                    1e3 * e->others.v[k].seconds));
        }
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:i, s:s, s:s, s:s, s:f, s:o}", "op",
                                              kd_op_info[e->op].name, "shape", e->shape, "place", e->place, "count",
                                              e->count, "schedule", e->schedule, "plan", e->plan, "why", e->why, "ms",
                                              1e3 * e->seconds, "others", others));
    }
    return list;
}
