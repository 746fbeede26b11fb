/* cmd_compile.c: kdc FILE.kd: compiles what the file declares; prints a summary, a stage, or writes an object.
 *
 * What is compiled: the one NAME asked for; else every instance and session declared in the file itself; else, when
 * there are none, every net template of it. A network's input shapes are those of --shape, or those a session of the
 * file applies it to, or what its own annotations and --size and --batch say; if none of these works it is listed as
 * such, unless it was asked for by name or nothing of the file could apply it: then x is a picture, if that will do.
 */
#include "frontend/cli/common.h"
#include "frontend/cli/explain.h"

#include <stdlib.h>
#include <string.h>

static const char *const stages[] = {"ast", "ir", "grad", "fused", "loops", "llvm", "asm", "obj"};
typedef enum Stage { STAGE_AST, STAGE_IR, STAGE_GRAD, STAGE_FUSED, STAGE_LOOPS, STAGE_LLVM, STAGE_ASM, STAGE_OBJ, STAGE_NONE } Stage;

typedef struct Job {
    const KdcArgs *a;
    KdcProgram *p;
    KdcWatch *w;
    Stage stage;
    int usage; /* exit code of a --shape that names no input, or 0 */
    bool summary, asked; /* asked: how sessions apply the networks */
    KD_VEC(KdcSummary) items;
    KD_VEC(KdcShapes) shapes; /* by item */
    KD_VEC(const char *) applied;
} Job;

/* ---- selection ------------------------------------------------------------------------------------ */

static bool is_alone(const Job *j, const KdDecl *d, const KdcShapes *shapes) {
    KdNetOptions o;
    return kdc_net_options(j->p, shapes, &o) && kdc_probe(j->p, d->name, false, &o, NULL, 0, NULL);
}

/* "x: [1, 3, 8, 8], y: i32[5]" -> shapes; false when there is anything else. */
static bool parse_shapes(KdContext *cx, const char *text, KdcShapes *out) {
    static const struct { const char *word; KdcDType d; } dtypes[] = {{"i32", KDC_I32}, {"u8", KDC_U8}, {"f32", KDC_F32}};
    KD_VEC(KdcShape) v = {0};
    for (const char *p = text; *p;) {
        KdcShape s = {.dtype = KDC_F32};
        size_t n = strcspn(p, ":");
        s.name = kd_intern(cx, p, n);
        p += n + (p[n] == ':');
        p += strspn(p, " ");
        for (int k = 0; k < KD_COUNT(dtypes); k++) {
            size_t m = strlen(dtypes[k].word);
            if (strncmp(p, dtypes[k].word, m) == 0) {
                s.dtype = dtypes[k].d;
                p += m;
            }
        }
        if (*p++ != '[') {
            return false;
        }
        for (p += strspn(p, " "); *p && *p != ']'; p += strspn(p, ", ")) {
            char *end;
            int64_t d = strtoll(p, &end, 10);
            if (end == p || s.rank == KD_MAX_RANK) {
                return false;
            }
            s.dim[s.rank++] = d;
            p = end;
        }
        if (*p++ != ']') {
            return false;
        }
        p += strspn(p, ", ");
        kd_push(cx, &v, s);
    }
    out->given = v.v;
    out->n_given = v.n;
    return v.n > 0;
}

/* The shapes that the file's sessions apply network d to, where it is first applied. */
static bool applied_shapes(Job *j, const KdDecl *d, KdcShapes *out) {
    KdContext *cx = j->p->cx;
    int n;
    const KdDecl *all = kd_lang_decls(j->p->lang, &n);
    for (int i = 0; i < n && !j->asked; i++) {
        if (all[i].main && all[i].kind == KD_DECL_SESSION) {
            int count;
            const char *const *texts = kdc_applications(j->p, all[i].name, &count);
            for (int k = 0; k < count; k++) {
                kd_push(cx, &j->applied, texts[k]);
            }
        }
    }
    j->asked = true;
    const char *start = kd_format(cx, "in %s applied to ", d->value);
    size_t length = strlen(start);
    for (int i = 0; i < j->applied.n; i++) {
        if (strncmp(j->applied.v[i], start, length) == 0 && parse_shapes(cx, j->applied.v[i] + length, out)) {
            return true;
        }
    }
    return false;
}

static bool shape_options(Job *j, KdcShapes *out) {
    KdStr s = {.cx = j->p->cx};
    for (int i = 0; i < j->a->n_shapes; i++) { /* x=1x3x8x8 -> x: [1 3 8 8] */
        for (const char *p = j->a->shapes[i]; *p; p++) {
            kd_str_printf(&s, *p == '=' ? ": [" : *p == 'x' && strchr(j->a->shapes[i], '=') < p ? " " : "%c", *p);
        }
        kd_str_add(&s, "] ", 2);
    }
    return parse_shapes(j->p->cx, s.s ? s.s : "", out);
}

/* A network's input shapes: those asked for; as its sessions apply it, unless a size was asked for; else its own. */
static bool find_shapes(Job *j, const KdDecl *d, KdcShapes *out) {
    *out = (KdcShapes){0};
    bool sized = j->a->batch || j->a->height;
    if (shape_options(j, out) || d->kind == KD_DECL_SESSION) {
        return true;
    }
    if (sized && is_alone(j, d, out)) {
        return true;
    }
    if (d->kind == KD_DECL_INSTANCE && applied_shapes(j, d, out) && is_alone(j, d, out)) {
        return true;
    }
    *out = (KdcShapes){0};
    return is_alone(j, d, out);
}

static void add(Job *j, const KdDecl *d, bool may_skip) {
    KdcShapes shapes;
    bool alone = find_shapes(j, d, &shapes);
    if (!alone && !may_skip) {
        kdc_cli_default_shape(j->p, j->a, d->name, &shapes);
    }
    KdcSummary s = {.name = d->name, .what = d->value ? d->value : ""};
    s.session = d->kind == KD_DECL_SESSION;
    s.skipped = may_skip && !alone ? "not compiled by itself: its shapes are known only where it is applied" : NULL;
    kd_push(j->p->cx, &j->items, s);
    kd_push(j->p->cx, &j->shapes, shapes);
}

static bool select_by_name(Job *j) {
    const char *name = kd_intern_z(j->p->cx, j->a->name);
    const KdDecl *d = kdc_cli_find(j->p, name);
    if (d) {
        add(j, d, false);
        return true;
    }
    int n;
    const KdDecl *all = kd_lang_decls(j->p->lang, &n);
    const char **names = KD_NEW_ARRAY(j->p->cx, const char *, n + 1);
    for (int i = 0; i < n; i++) {
        names[i] = all[i].name;
    }
    const char *near = kd_nearest(name, names, n);
    kd_error(j->p->cx, 0, "%s: nothing is called '%s'%s%s%s", j->p->file, name,
             near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
    return false;
}

static bool select_all(Job *j) {
    int n;
    const KdDecl *d = kd_lang_decls(j->p->lang, &n);
    bool session = false, any = false;
    for (int i = 0; i < n; i++) {
        session = session || (d[i].main && d[i].kind == KD_DECL_SESSION);
        any = any || (d[i].main && (d[i].kind == KD_DECL_SESSION || d[i].kind == KD_DECL_INSTANCE));
    }
    for (int i = 0; i < n; i++) {
        bool net = d[i].kind == KD_DECL_INSTANCE || (!any && d[i].kind == KD_DECL_NET);
        if (!d[i].main || (!net && d[i].kind != KD_DECL_SESSION)) {
            continue;
        }
        /* Inside a session its errors would surface there; alone in a file they must not be hidden. */
        bool may_skip = net && (session || d[i].kind == KD_DECL_NET);
        add(j, &d[i], may_skip);
    }
    return true;
}

/* ---- one function ---------------------------------------------------------------------------------- */

/* Schedules are for the machine that code is printed for, or that is asked about; what only runs here is for this one. */
static const KdTarget *machine_of(const Job *j) {
    bool code = j->stage == STAGE_LLVM || j->stage == STAGE_ASM || j->stage == STAGE_OBJ;
    bool asked = j->a->explain && (j->a->cpu || j->a->triple);
    return code || asked ? &j->p->target : &j->p->host;
}

static bool compile(Job *j, int i) {
    KdcSummary *s = &j->items.v[i];
    KdcProgram *p = j->p;
    KdcUnit *u = KD_NEW(p->cx, KdcUnit);
    KdNetOptions o;
    KdSessionInfo info = {0};
    s->unit = u;
    j->w->unit = s->name;
    if (!kdc_net_options(p, &j->shapes.v[i], &o)) {
        return false;
    }
    if (s->session ? !kdc_unit_session(p, s->name, ~0u, &o, &info, u)
                   : !kdc_unit_net(p, s->name, &o, u)) {
        return false;
    }
    s->what = s->session ? info.from : s->what;
    if (j->stage == STAGE_IR) {
        return true;
    }
    kdc_unit_passes(p, u, machine_of(j));
    return !j->summary || kdc_unit_jit(p, u);
}

static bool emit_code(Job *j, const KdcUnit *u, KdStr *out) {
    static const KdEmit what[] = {
        [STAGE_LLVM] = KD_EMIT_LLVM, [STAGE_ASM] = KD_EMIT_ASM, [STAGE_OBJ] = KD_EMIT_OBJ};
    KdcUnit again = *u;
    if (j->summary) { /* the summary's loops are for this machine; the object may be for another */
        kdc_unit_passes(j->p, &again, &j->p->target);
    }
    KdCodegenOptions o = kdc_codegen_options(j->p);
    return kd_codegen(j->p->cx, again.result.loops, &j->p->target, &o, what[j->stage], out);
}

static bool emit(Job *j, KdStr *out) {
    KdModule m = {.cx = j->p->cx};
    for (int i = 0; i < j->items.n; i++) {
        const KdcUnit *u = j->items.v[i].unit;
        if (j->items.v[i].skipped) {
            continue;
        }
        switch (j->stage) {
        case STAGE_IR:
            kd_push(j->p->cx, &m.funcs, u->func);
            break;
        case STAGE_GRAD:
            kd_push(j->p->cx, &m.funcs, (KdFunc *)(uintptr_t)u->result.grad); /* only printed */
            break;
        case STAGE_FUSED:
            kd_print_fusion(out, u->result.fusion);
            break;
        case STAGE_LOOPS:
            kl_print_module(out, u->result.loops);
            break;
        case STAGE_LLVM:
        case STAGE_ASM:
        case STAGE_OBJ:
            if (!emit_code(j, u, out)) {
                return false;
            }
            break;
        case STAGE_AST:
        case STAGE_NONE:
            break;
        }
    }
    if (j->stage == STAGE_IR || j->stage == STAGE_GRAD) {
        kd_print_module(out, &m);
    }
    return kdc_cli_write(j->p, j->a->output, out->s ? out->s : "", out->n);
}

/* An object file holds one entry; two in one text would not read back either. */
static bool only_one(const Job *j) {
    int n = 0;
    const char *first = NULL;
    for (int i = 0; i < j->items.n; i++) {
        if (!j->items.v[i].skipped) {
            first = n++ ? first : j->items.v[i].name;
        }
    }
    bool code = j->stage == STAGE_LLVM || j->stage == STAGE_ASM || j->stage == STAGE_OBJ;
    if (!code || n == 1) {
        return true;
    }
    kd_error(j->p->cx, 0, "%s: --emit=%s and -o need one network or session, there are %d", j->p->file,
             stages[j->stage], n);
    if (first) {
        kd_hint(j->p->cx, "name it: %s:%s", j->p->file, first);
    }
    return false;
}

/* With --quiet only what --explain asks for. */
static bool print_text(Job *j) {
    KdStr s = {.cx = j->p->cx};
    if (!j->a->quiet) {
        kdc_summary_text(&s, j->items.v, j->items.n);
        if (!j->items.n) {
            kd_str_printf(&s, "%s declares no network and no session; it is well formed\n", j->p->file);
        }
    }
    for (int i = 0; i < j->items.n && j->a->explain; i++) {
        if (!j->items.v[i].skipped) {
            kdc_cli_explain_text(&s, j->p, j->items.v[i].unit, machine_of(j));
        }
    }
    return !s.n || kdc_cli_write(j->p, NULL, s.s, s.n);
}

static bool print_summary(Job *j, double start) {
    KdStr s = {.cx = j->p->cx};
    if (!j->a->json) {
        return print_text(j);
    }
    if (j->a->quiet) {
        return true;
    }
    json_t *o = kdc_summary_json(j->p->file, j->items.v, j->items.n, kdc_now() - start);
    json_t *schedules = j->a->explain ? json_object() : NULL;
    for (int i = 0; i < j->items.n && schedules; i++) {
        const KdcSummary *item = &j->items.v[i];
        if (!item->skipped) {
            json_object_set_new(schedules, item->name, kdc_cli_explain_json(j->p, item->unit, machine_of(j)));
        }
    }
    if (schedules) {
        json_object_set_new(o, "schedules", schedules);
    }
    char *text = o ? json_dumps(o, JSON_INDENT(2)) : NULL;
    json_decref(o);
    if (!text) {
        kd_raise(j->p->cx, KD_FAIL_MACHINE, "out of memory");
    }
    kd_str_printf(&s, "%s\n", text);
    free(text);
    return kdc_cli_write(j->p, NULL, s.s, s.n);
}

/* Every --shape is of an input of something that was compiled. */
static bool check_shapes(Job *j) {
    KdContext *cx = j->p->cx;
    KD_VEC(const char *) names = {0};
    for (int i = 0; i < j->items.n; i++) {
        const KdFunc *f = j->items.v[i].skipped ? NULL : j->items.v[i].unit->func;
        for (int k = 0; f && k < f->inputs.n; k++) {
            if (kd_input_role(f, f->inputs.v[k]) == KD_DATA) {
                kd_push(cx, &names, kd_attr_str(f, kd_node(f, f->inputs.v[k]), "name"));
            }
        }
    }
    for (int i = 0; i < j->a->n_shapes; i++) {
        const char *name = kd_intern(cx, j->a->shapes[i], strcspn(j->a->shapes[i], "="));
        bool known = false;
        for (int k = 0; k < names.n; k++) {
            known = known || strcmp(names.v[k], name) == 0;
        }
        if (!known) {
            const char *near = kd_nearest(name, names.v, names.n);
            j->usage = kdc_usage_error(j->a, "--shape: no input is called '%s'%s%s%s", name, near ? "; did you mean " : "",
                                       near ? near : "", near ? "?" : "");
            return false;
        }
    }
    return true;
}

static bool work(Job *j) {
    double start = kdc_now();
    KdStr out = {.cx = j->p->cx};
    if (!kdc_cli_spares(j->p, j->a, j->a->output, NULL, 0)) {
        return false;
    }
    if (j->stage == STAGE_AST) {
        kd_lang_print_ast(&out, j->p->lang);
        return kdc_cli_write(j->p, j->a->output, out.s ? out.s : "", out.n);
    }
    if (!(j->a->name ? select_by_name(j) : select_all(j)) || !only_one(j)) {
        return false;
    }
    bool ok = true;
    for (int i = 0; i < j->items.n; i++) { /* errors of all of them, not only of the first */
        ok = (j->items.v[i].skipped || compile(j, i)) && ok;
    }
    return ok && check_shapes(j) && (j->stage == STAGE_NONE || emit(j, &out)) && (!j->summary || print_summary(j, start));
}

/* ---- the verb --------------------------------------------------------------------------------------- */

static int list_ops(const KdcArgs *a) {
    static const char *const classes[] = {"leaf", "elementwise", "index", "window", "reduce", "anchor", "opaque", "meta"};
    json_t *list = json_array();
    for (int op = 0; op < KD_OP_COUNT; op++) {
        const KdOpInfo *o = &kd_op_info[op];
        if (a->json) {
            json_array_append_new(list, json_pack("{s:s, s:i, s:s, s:b, s:s}", "name", o->name, "operands", o->n_in,
                                                  "class", classes[o->cls], "differentiable",
                                                  (int)(o->grad != kd_op_info[KD_OP_SIGN].grad), "attributes",
                                                  o->attr_text));
        } else if (o->n_in < 0) {
            printf("%-22s n  %-12s %s\n", o->name, classes[o->cls], o->attr_text);
        } else {
            printf("%-22s %d  %-12s %s\n", o->name, o->n_in, classes[o->cls], o->attr_text);
        }
    }
    if (a->json) {
        json_dumpf(list, stdout, JSON_INDENT(1));
        printf("\n");
    }
    json_decref(list);
    return 0;
}

static int find_stage(const KdcArgs *a, Stage *stage) {
    *stage = a->output ? STAGE_OBJ : STAGE_NONE;
    if (!a->emit) {
        return 0;
    }
    for (int i = 0; i < KD_COUNT(stages); i++) {
        if (strcmp(stages[i], a->emit) == 0) {
            *stage = (Stage)i;
            return 0;
        }
    }
    const char *near = kd_nearest(a->emit, stages, KD_COUNT(stages));
    return kdc_usage_error(a, "--emit needs ast, ir, grad, fused, loops, llvm, asm or obj, got '%s'%s%s%s", a->emit,
                           near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}

int kdc_cmd_compile(const KdcArgs *a) {
    Stage stage;
    KdcWatch w;
    int code = find_stage(a, &stage);
    if (code) {
        return code;
    }
    if (a->list_ops) {
        return list_ops(a);
    }
    if (a->explain && a->emit) {
        return kdc_usage_error(a, "--explain goes with the summary, not with --emit");
    }
    KdcProgram *p = kdc_cli_open(a, &w, &code);
    if (!p) {
        return code;
    }
    Job j = {.a = a, .p = p, .w = &w, .stage = stage, .summary = !a->emit};
    volatile bool ok = false;
    KdLanding l;
    if (KD_TRY(p->cx, l)) {
        ok = work(&j);
        kd_landing_pop(p->cx);
    } else {
        kdc_failed(p);
    }
    kdc_settle(p, 0);
    code = kdc_cli_close(a, &w, p, ok);
    return j.usage ? j.usage : code;
}
