/* builtins_train.c: weights and buffers, modes, optimisers with PyTorch's arguments and defaults,
 * the image pool. */
#include "frontend/lang/elaborate.h"

#include <string.h>

/* ---- weights --------------------------------------------------------------------------------- */

static KdVal declare(KdCall *c, bool buffer) {
    const char *s;
    if (c->v[0].kind != KD_VAL_LIST)
        return kd_arg_error(c, 0, "a shape is a list of integers, found %s",
                            kd_val_describe(c->E, c->v[0]));
    if (!kd_arg_string(c, 1, &s) || (c->v[2].kind != KD_VAL_NONE && !kd_arg_string(c, 2, &s)))
        return kd_poison();
    return kd_declare_weight(c->E, c->expr, c->v[0], c->v[1], c->v[2], buffer, c->at);
}

static KdVal do_weight(KdCall *c) { return declare(c, false); }
static KdVal do_buffer(KdCall *c) { return declare(c, true); }

static bool collect(KdCall *c, KdVal v, KdWeights *out) {
    if (v.kind == KD_VAL_LIST) {
        for (int i = 0; i < v.list->n; i++)
            if (!collect(c, v.list->v[i], out)) return false;
        return true;
    }
    if (v.kind != KD_VAL_INSTANCE) {
        kd_arg_error(c, 0, "expected a network, found %s", kd_val_describe(c->E, v));
        return false;
    }
    if (v.inst->store) kd_store_weights(c->E, v.inst->store, false, out);
    return true;
}

/* weights(S, "norm.weight"): the current values, in order of creation, of those whose path ends so.
 */
static KdVal do_weights(KdCall *c) {
    const char *suffix = "";
    KdWeights all = {0};
    KD_VEC(KdVal) found = {0};
    if ((c->v[1].kind != KD_VAL_NONE && !kd_arg_string(c, 1, &suffix)) ||
        !collect(c, c->v[0], &all))
        return kd_poison();
    size_t n = strlen(suffix);
    for (int i = 0; i < all.v.n; i++) {
        size_t len = strlen(all.v.v[i]->path);
        if (len < n || strcmp(all.v.v[i]->path + len - n, suffix) != 0) continue;
        KdVal v = kd_tensor(all.v.v[i]->now);
        v.weight = all.v.v[i];
        kd_push(c->E->cx, &found, v);
    }
    KdVal l = kd_list(c->E, found.n);
    if (found.n) memcpy(kd_items(l), found.v, (size_t)found.n * sizeof *found.v);
    return l;
}

static KdVal with_mode(KdCall *c, KdVal v, KdMode mode) {
    if (v.kind == KD_VAL_LIST) {
        KdVal l = kd_list(c->E, v.list->n);
        for (int i = 0; i < v.list->n; i++)
            kd_items(l)[i] = with_mode(c, v.list->v[i], mode);
        return l;
    }
    if (v.kind != KD_VAL_INSTANCE)
        return kd_arg_error(c, 0, "expected a network, found %s", kd_val_describe(c->E, v));
    v.has_mode = true;
    v.mode = mode;
    return v;
}

static KdVal do_train_mode(KdCall *c) { return with_mode(c, c->v[0], KD_TRAIN); }
static KdVal do_eval_mode(KdCall *c) { return with_mode(c, c->v[0], KD_INFER); }

/* ---- optimisers ------------------------------------------------------------------------------ */

static bool number_or(KdCall *c, int k, double def, double *out) {
    *out = def;
    return c->v[k].kind == KD_VAL_NONE || kd_arg_float(c, k, out);
}

/* The learning rate may depend on step and epoch: a rank-0 tensor. */
static bool rate(KdCall *c, int k, double def, KdValue *lr) {
    KdVal v = c->v[k].kind == KD_VAL_NONE ? kd_float(def) : c->v[k];
    if (v.kind == KD_VAL_TENSOR && kd_val_type(c->E, v)->rank != 0) {
        kd_arg_error(c, k, "'lr' must be one number, found %s", kd_val_describe(c->E, v));
        return false;
    }
    if (v.kind != KD_VAL_TENSOR && !kd_is_number(v)) {
        kd_arg_error(c, k, "'lr' must be a number, found %s", kd_val_describe(c->E, v));
        return false;
    }
    if (!kd_elab_begin(c->E, c->span[k])) return false;
    v = kd_to_tensor(c->E, v, KD_F32, c->span[k]);
    *lr = v.kind == KD_VAL_TENSOR ? v.t : KD_NONE;
    return v.kind == KD_VAL_TENSOR;
}

/* clamp = [lo, hi], argument k */
static bool clamp(KdCall *c, int k, KdOptimizer *o) {
    KdVal v = c->v[k];
    if (v.kind == KD_VAL_NONE) return true;
    bool pair = v.kind == KD_VAL_LIST && v.list->n == 2 && kd_is_number(v.list->v[0]) && kd_is_number(v.list->v[1]);
    if (!pair || !(kd_number(v.list->v[0]) < kd_number(v.list->v[1]))) {
        kd_arg_error(c, k, "'clamp' is a list of two numbers, the lower one first, found %s", kd_val_describe(c->E, v));
        return false;
    }
    o->clamped = true;
    o->lo = kd_number(v.list->v[0]);
    o->hi = kd_number(v.list->v[1]);
    return true;
}

static KdVal optimizer(KdCall *c, KdOp op, KdValue lr, int clamp_at, int n, const KdAttr *attr) {
    KdOptimizer *o = KD_NEW(c->E->cx, KdOptimizer);
    if (!clamp(c, clamp_at, o)) return kd_poison();
    o->op = op;
    o->lr = lr;
    memcpy(o->attr + 1, attr, (size_t)n * sizeof *attr);
    return (KdVal){.kind = KD_VAL_OPTIMIZER, .opt = o};
}

/* lr, beta1, beta2, eps, weight_decay, betas, clamp */
static KdVal adam(KdCall *c, double decay, int64_t decoupled) {
    KdValue lr;
    double beta[2] = {0.9, 0.999}, eps, wd;
    if (c->v[5].kind != KD_VAL_NONE) {
        KdVal b = c->v[5];
        if (b.kind != KD_VAL_LIST || b.list->n != 2 || !kd_is_number(b.list->v[0]) ||
            !kd_is_number(b.list->v[1]))
            return kd_arg_error(c, 5, "'betas' is a list of two numbers, found %s",
                                kd_val_describe(c->E, b));
        for (int i = 0; i < 2; i++)
            beta[i] = kd_number(b.list->v[i]);
    }
    if (!rate(c, 0, 1e-3, &lr) || !number_or(c, 1, beta[0], &beta[0]) ||
        !number_or(c, 2, beta[1], &beta[1]) || !number_or(c, 3, 1e-8, &eps) ||
        !number_or(c, 4, decay, &wd))
        return kd_poison();
    for (int i = 0; i < 2; i++)
        if (!(beta[i] >= 0 && beta[i] < 1))
            return kd_elab_error(c->E, c->at, "%s: a beta must be in 0 ... 1, found %s", c->name,
                                 kd_float_text(c->E->cx, beta[i]));
    KdAttr a[] = {{.f = beta[0]}, {.f = beta[1]}, {.f = eps}, {.f = wd}, {.i = decoupled}};
    return optimizer(c, KD_OP_ADAM, lr, 6, 5, a);
}

static KdVal do_adam(KdCall *c) { return adam(c, 0, 0); }
static KdVal do_adamw(KdCall *c) { return adam(c, 1e-2, 1); }

static KdVal do_sgd(KdCall *c) {
    KdValue lr;
    double momentum, wd;
    bool nesterov;
    if (!rate(c, 0, 1e-3, &lr) || !number_or(c, 1, 0, &momentum) || !number_or(c, 2, 0, &wd) ||
        !kd_arg_bool(c, 3, false, &nesterov))
        return kd_poison();
    if (nesterov && momentum <= 0) return kd_arg_error(c, 3, "nesterov needs a momentum");
    KdAttr a[] = {{.f = momentum}, {.f = wd}, {.i = nesterov}};
    return optimizer(c, KD_OP_SGD, lr, 4, 3, a);
}

static KdVal do_rmsprop(KdCall *c) {
    KdValue lr;
    double alpha, eps, wd;
    if (!rate(c, 0, 1e-2, &lr) || !number_or(c, 1, 0.99, &alpha) || !number_or(c, 2, 1e-8, &eps) ||
        !number_or(c, 3, 0, &wd))
        return kd_poison();
    KdAttr a[] = {{.f = alpha}, {.f = eps}, {.f = wd}};
    return optimizer(c, KD_OP_RMSPROP, lr, 4, 3, a);
}

static KdVal do_history(KdCall *c) {
    KdValue x;
    int64_t capacity = 50;
    if (!kd_arg_tensor(c, 0, &x) || (c->v[1].kind != KD_VAL_NONE && !kd_arg_int(c, 1, &capacity)))
        return kd_poison();
    if (capacity < 0) return kd_arg_error(c, 1, "the capacity cannot be %lld", (long long)capacity);
    return kd_history(c->E, c->v[0], capacity, c->at);
}

const KdBuiltin kd_builtins_train[] = {
    {"weight", "shape, init, name?", do_weight, -1},
    {"buffer", "shape, init, name?", do_buffer, -1},
    {"weights", "network, suffix?", do_weights, -1},
    {"train_mode", "network", do_train_mode, -1},
    {"eval_mode", "network", do_eval_mode, -1},
    {"adam", "lr?, beta1?, beta2?, eps?, weight_decay?, betas?, clamp?", do_adam, -1},
    {"adamw", "lr?, beta1?, beta2?, eps?, weight_decay?, betas?, clamp?", do_adamw, -1},
    {"sgd", "lr?, momentum?, weight_decay?, nesterov?, clamp?", do_sgd, -1},
    {"rmsprop", "lr?, alpha?, eps?, weight_decay?, clamp?", do_rmsprop, -1},
    {"history", "x, capacity?", do_history, -1},
    {NULL, NULL, NULL, -1},
};
