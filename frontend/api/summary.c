/* summary.c: what `kdc model.kd` says of each network and session, for people and as JSON.
 *
 * Multiply-accumulates are counted in the three conventions of the field: transposed
 * convolutions left out (noT), by their input's pixels (Tin), by their output's (Tout). Memory is that of
 * activations: the sum of all stored values, and the planned arena. Passes over memory are the groups of fusion.
 */
#include "frontend/api/api.h"

#include <inttypes.h>
#include <string.h>

/* 1234567 -> "1,234,567" */
static const char *grouped(KdContext *cx, int64_t v) {
    const char *digits = kd_format(cx, "%" PRId64, v);
    KdStr s = {.cx = cx};
    size_t n = strlen(digits);
    for (size_t i = 0; i < n; i++) {
        kd_str_add(&s, &digits[i], 1);
        if ((n - i) % 3 == 1 && i + 1 < n && digits[i] != '-') {
            kd_str_add(&s, ",", 1);
        }
    }
    return s.s;
}

static const char *bytes(KdContext *cx, int64_t v) {
    return v < 10240 ? kd_format(cx, "%" PRId64 " B", v)
           : v < 10 * 1048576 ? kd_format(cx, "%.1f KiB", (double)v / 1024)
                              : kd_format(cx, "%.1f MiB", (double)v / 1048576);
}

static const char *giga(KdContext *cx, double v) {
    return v >= 1e9 ? kd_format(cx, "%.6g G", v / 1e9)
           : v >= 1e6 ? kd_format(cx, "%.6g M", v / 1e6)
                      : kd_format(cx, "%.0f", v);
}

static void data_inputs(KdStr *s, const KdFunc *f) {
    int n = 0;
    for (int i = 0; i < f->inputs.n; i++) {
        KdValue v = f->inputs.v[i];
        if (kd_input_role(f, v) == KD_DATA) {
            kd_str_printf(s, "%s%s: %s", n++ ? ", " : "", kd_attr_str(f, kd_node(f, v), "name"),
                          kd_shape_text(f->cx, kd_vtype(f, v)));
        }
    }
}

static void one_text(KdStr *s, const KdcSummary *v) {
    KdContext *cx = s->cx;
    kd_str_printf(s, "%s %s", v->session ? "session" : "network", v->name);
    if (*v->what) {
        kd_str_printf(s, v->session ? " from %s" : " = %s", v->what);
    }
    if (v->skipped) {
        kd_str_printf(s, "\n  %s\n", v->skipped);
        return;
    }
    const KdFunc *f = v->unit->func;
    KdMacs macs = kd_lang_macs(f);
    KdcStats st = kdc_unit_stats(v->unit);
    kd_str_add(s, " (", 2);
    data_inputs(s, f);
    kd_str_printf(s, ")\n  parameters    %s\n", grouped(cx, kd_lang_parameters(f)));
    kd_str_printf(s, "  MACs          noT %s, Tin %s, Tout %s\n", giga(cx, macs.no_t),
                  giga(cx, macs.t_in), giga(cx, macs.t_out));
    KdElements e = kd_lang_elements(f);
    kd_str_printf(s, "  elements      biases %s, norms %s, scales %s, activations %s\n", giga(cx, e.biases),
                  giga(cx, e.norms), giga(cx, e.scales), giga(cx, e.activations));
    kd_str_printf(s, "  layers        %.2f MiB\n", kd_lang_layer_bytes(f) / (1 << 20));
    kd_str_printf(s, "  activations   %s, planned in %s", bytes(cx, st.memory_naive),
                  bytes(cx, st.memory_planned));
    if (st.memory < st.memory_planned) {
        kd_str_printf(s, ", in %s by recomputing (%.1f %% more work)", bytes(cx, st.memory),
                      100 * st.more_work);
    }
    kd_str_add(s, "\n", 1);
    kd_str_printf(s, "  fused passes  %d of %u nodes\n", v->unit->result.fusion->groups.n,
                  v->unit->result.final->n);
    kd_str_printf(s, "  kernels       %d distinct, %d calls\n", st.kernels, st.calls);
    kd_str_printf(s, "  compiled in   %.2f s%s\n", st.seconds,
                  st.from_cache ? " (kernels from the cache)" : "");
}

void kdc_summary_text(KdStr *s, const KdcSummary *v, int n) {
    for (int i = 0; i < n; i++) {
        if (i) {
            kd_str_add(s, "\n", 1);
        }
        one_text(s, &v[i]);
    }
}

static json_t *json_inputs(const KdFunc *f) {
    json_t *list = json_array();
    for (int i = 0; i < f->inputs.n; i++) {
        KdValue v = f->inputs.v[i];
        const KdType *t = kd_vtype(f, v);
        if (kd_input_role(f, v) != KD_DATA) {
            continue;
        }
        json_t *shape = json_array();
        for (int d = 0; d < t->rank; d++) {
            json_array_append_new(shape, json_integer(t->dim[d]));
        }
        json_array_append_new(list, json_pack("{s:s, s:s, s:o}", "name",
                                              kd_attr_str(f, kd_node(f, v), "name"), "dtype",
                                              kd_dtype_name(t->dtype), "shape", shape));
    }
    return list;
}

static json_t *one_json(const KdcSummary *v) {
    json_t *o = json_pack("{s:s, s:s}", "name", v->name, v->session ? "from" : "is", v->what);
    if (v->skipped) {
        json_object_set_new(o, "skipped", json_string(v->skipped));
        return o;
    }
    const KdFunc *f = v->unit->func;
    KdMacs m = kd_lang_macs(f);
    KdcStats st = kdc_unit_stats(v->unit);
    json_t *rest = json_pack(
        "{s:o, s:I, s:{s:I, s:I, s:I}, s:{s:I, s:I, s:I}, s:f, s:i, s:i, s:i, s:i, s:f, s:f, s:b}", "inputs",
        json_inputs(f), "parameters", (json_int_t)kd_lang_parameters(f), "macs", "noT",
        (json_int_t)m.no_t, "Tin", (json_int_t)m.t_in, "Tout", (json_int_t)m.t_out,
        "activation_bytes", "naive", (json_int_t)st.memory_naive, "planned",
        (json_int_t)st.memory_planned, "recomputed", (json_int_t)st.memory, "more_work", st.more_work, "nodes", (int)v->unit->result.final->n, "passes", v->unit->result.fusion->groups.n, "kernels",
        st.kernels, "calls", st.calls, "compile_seconds", st.seconds, "codegen_seconds",
        st.code_seconds, "from_cache", (int)st.from_cache);
    json_object_update(o, rest);
    json_decref(rest);
    return o;
}

json_t *kdc_summary_json(const char *file, const KdcSummary *v, int n, double seconds) {
    json_t *networks = json_array(), *sessions = json_array();
    for (int i = 0; i < n; i++) {
        json_array_append_new(v[i].session ? sessions : networks, one_json(&v[i]));
    }
    return json_pack("{s:s, s:o, s:o, s:f}", "file", file, "networks", networks, "sessions",
                     sessions, "seconds", seconds);
}
