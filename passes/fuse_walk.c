/* fuse_walk.c: questions about a finished fusion: what a group computes and loads, and at which places; whether a store
 * may take a loaded value's memory; and the verifier.
 *
 * A walk starts at the group's stores, at their place of the domain (or at their row), and follows operands until it
 * meets memory. Elementwise operands are at the same place; a broadcast of a row's value is at the row; whatever lies
 * under an index op, a window, an anchor's or an opaque op's operand is at other places.
 */
#include "passes/fuse.h"

#include <stdlib.h>
#include <string.h>

KdDomain kd_group_domain(const KdFusion *fu, const KdGroup *g) {
    if (g->kind == KD_GROUP_ROW) {
        const KdNode *n = kd_node(fu->f, g->local.v[0]);
        return kd_domain_reduced(kd_vtype(fu->f, n->in[0]), n->type);
    }
    return kd_domain(kd_vtype(fu->f, g->root));
}

bool kd_group_has(const KdFusion *fu, int g, KdValue v) {
    return fu->stored[v] && fu->group[v] == g;
}

typedef struct Walker {
    const KdFusion *fu;
    KdWalk *w;
    KdDomain d;
    int g;
} Walker;

/* False if v was already seen at these places. */
static bool touch(Walker *k, KdValue v, bool load, unsigned at) {
    KdWalk *w = k->w;
    if (w->stamp[v] != w->now) {
        w->stamp[v] = w->now;
        w->slot[v] = (uint32_t)w->touch.n;
        kd_push(k->fu->f->cx, &w->touch, (KdTouch){v, load, at});
        return true;
    }
    KdTouch *t = &w->touch.v[w->slot[v]];
    bool news = (t->at | at) != t->at;
    t->at |= at;
    return news;
}

static void visit(Walker *k, KdValue v, unsigned at);

static void visit_operand(Walker *k, KdValue o, unsigned at) {
    const KdFusion *fu = k->fu;
    KdValue home = fu->alias[o] != KD_NONE ? fu->alias[o] : o;
    if (fu->stored[home] && fu->group[home] != k->g) {
        touch(k, home, true, at);
        return;
    }
    visit(k, o, at);
}

static void visit(Walker *k, KdValue v, unsigned at) {
    const KdFunc *f = k->fu->f;
    const KdNode *n = kd_node(f, v);
    if (!touch(k, v, false, at)) {
        return;
    }
    unsigned below = KD_AT_OTHER;
    bool tail = false;
    switch (kd_class(f, v)) {
    case KD_LEAF:
        return;
    case KD_ELEMENTWISE:
        below = at;
        break;
    case KD_REDUCE:
        below = at != KD_AT_OTHER ? KD_AT_FULL : KD_AT_OTHER;
        break;
    case KD_INDEX:
        if (kd_is_view(f, v) && at != KD_AT_OTHER) {
            KdDomain a = kd_domain(n->type), b = kd_domain(kd_vtype(f, n->in[0]));
            if (kd_domain_same(&a, &b)) {
                below = at;
            } else if (at == KD_AT_FULL && k->d.rows && !kd_is_reshape(f, v) &&
                       kd_domain_same(&a, &k->d) &&
                       kd_domain_is_exact_row(&k->d, n->type, kd_vtype(f, n->in[0]))) {
                below = KD_AT_ROW;
            }
        }
        break;
    case KD_ANCHOR: /* a row group's: its streamed operand is made row by row */
        tail = k->fu->groups.v[k->g].kind == KD_GROUP_ROW && k->fu->stream[v] == KD_NOT_STREAMED;
        break;
    case KD_WINDOW:
    case KD_OPAQUE:
    case KD_META:
        break;
    }
    for (int i = 0; i < n->n_in; i++) {
        bool made = tail && k->fu->stream[n->in[i]] != KD_NOT_STREAMED;
        visit_operand(k, n->in[i], made ? KD_AT_FULL : below);
    }
}

static int by_value(const void *a, const void *b) {
    KdValue x = ((const KdTouch *)a)->v, y = ((const KdTouch *)b)->v;
    return x < y ? -1 : x > y;
}

const KdWalk *kd_group_walk(const KdFusion *fu, int g) {
    KdGroup *group = &fu->groups.v[g];
    Walker k = {fu, fu->walk, {0}, g};
    if (group->touch) {
        k.w->now++;
        k.w->touch.n = 0;
        for (int i = 0; i < group->n_touch; i++) {
            KdValue v = group->touch[i].v;
            k.w->stamp[v] = k.w->now;
            k.w->slot[v] = (uint32_t)i;
            kd_push(fu->f->cx, &k.w->touch, group->touch[i]);
        }
        return k.w;
    }
    if (group->kind != KD_GROUP_ROW || group->local.n > 0) {
        k.d = kd_group_domain(fu, group);
    }
    k.w->now++;
    k.w->touch.n = 0;
    for (int i = 0; i < group->stores.n; i++) {
        KdValue v = group->stores.v[i];
        KdClass cls = kd_class(fu->f, v);
        bool row = cls == KD_REDUCE || cls == KD_ANCHOR || !kd_domain_is(&k.d, kd_vtype(fu->f, v));
        visit(&k, v, group->kind == KD_GROUP_ROW && row ? KD_AT_ROW : KD_AT_FULL);
    }
    qsort(k.w->touch.v, (size_t)k.w->touch.n, sizeof *k.w->touch.v, by_value);
    for (int i = 0; i < k.w->touch.n; i++) {
        k.w->slot[k.w->touch.v[i].v] = (uint32_t)i;
    }
    group->n_touch = k.w->touch.n;
    group->touch = KD_NEW_ARRAY(fu->f->cx, KdTouch, group->n_touch + 1);
    memcpy(group->touch, k.w->touch.v, (size_t)group->n_touch * sizeof *group->touch);
    return k.w;
}

bool kd_group_reads_only_at_index(const KdFusion *fu, int group, KdValue read) {
    const KdGroup *g = &fu->groups.v[group];
    const KdNode *root = kd_node(fu->f, g->root);
    if (g->kind == KD_GROUP_OPAQUE) {
        if (!(kd_op_info[root->op].flags & KD_INPLACE)) {
            return false;
        }
        const KdWalk *w = kd_group_walk(fu, group);
        int paths = 0; /* operands that are it */
        for (int i = 0; i < w->touch.n; i++) {
            const KdNode *n = kd_node(fu->f, w->touch.v[i].v);
            for (int k = 0; !w->touch.v[i].load && k < n->n_in; k++) {
                paths += n->in[k] == read || fu->alias[n->in[k]] == read;
            }
        }
        return paths == 1 && (root->in[0] == read || fu->alias[root->in[0]] == read);
    }
    const KdWalk *w = kd_group_walk(fu, group);
    if (w->stamp[read] != w->now || !w->touch.v[w->slot[read]].load) {
        return true; /* not read at all */
    }
    for (int i = 0; i < g->stores.n && g->kind == KD_GROUP_ROW; i++) {
        if (kd_class(fu->f, g->stores.v[i]) == KD_ANCHOR) { /* reads rows again after their results are stored */
            return false;
        }
    }
    unsigned at = w->touch.v[w->slot[read]].at;
    return at == KD_AT_FULL || at == KD_AT_ROW;
}

/* ---- verifier -------------------------------------------------------------------------------------- */

static bool verify_group(const KdFusion *fu, int g, KdStr *why) {
    const KdFunc *f = fu->f;
    const KdGroup *group = &fu->groups.v[g];
    const KdWalk *w = kd_group_walk(fu, g);
    for (int i = 0; i < w->touch.n; i++) {
        const KdTouch *t = &w->touch.v[i];
        KdClass cls = kd_class(f, t->v);
        if (t->load) {
            if (fu->group[t->v] >= g) {
                kd_str_printf(why, "group %d loads %%%u, which group %d stores later", g, t->v,
                              fu->group[t->v]);
                return false;
            }
            if (fu->group[t->v] < 0 && !kd_is_memory(f, t->v)) {
                kd_str_printf(why, "group %d loads %%%u, which nobody stores", g, t->v);
                return false;
            }
            continue;
        }
        if (fu->stored[t->v] && (t->at & KD_AT_OTHER)) {
            kd_str_printf(why, "group %d needs its own %%%u at other places", g, t->v);
            return false;
        }
        if (fu->streamed[t->v]) {
            if (group->kind == KD_GROUP_ANCHOR || (group->kind == KD_GROUP_ROW && t->at == KD_AT_FULL)) {
                continue;
            }
            kd_str_printf(why, "group %d needs the streamed product %%%u where it cannot be", g, t->v);
            return false;
        }
        if ((cls == KD_REDUCE || cls == KD_WINDOW || cls == KD_ANCHOR || cls == KD_OPAQUE) &&
            (fu->group[t->v] != g || (t->at & KD_AT_OTHER))) {
            kd_str_printf(why, "group %d would compute %%%u (%s) over and over", g, t->v,
                          kd_op_info[kd_node(f, t->v)->op].name);
            return false;
        }
        if (cls == KD_META) {
            kd_str_printf(why, "%%%u (%s) has no kernel", t->v, kd_op_info[kd_node(f, t->v)->op].name);
            return false;
        }
    }
    for (int i = 0; i < group->stores.n; i++) {
        KdValue v = group->stores.v[i];
        if (!fu->stored[v] || fu->group[v] != g) {
            kd_str_printf(why, "group %d stores %%%u, but the table says otherwise", g, v);
            return false;
        }
    }
    return true;
}

bool kd_fusion_verify(const KdFusion *fu, KdStr *why) {
    const KdFunc *f = fu->f;
    for (int g = 0; g < fu->groups.n; g++) {
        if (!verify_group(fu, g, why)) {
            return false;
        }
    }
    for (int i = 0; i < f->outputs.n; i++) {
        KdValue v = f->outputs.v[i].value;
        if (!fu->stored[v] && fu->alias[v] == KD_NONE) {
            kd_str_printf(why, "output %s (%%%u) is in no memory", f->outputs.v[i].name, v);
            return false;
        }
    }
    for (KdValue v = 0; v < f->n; v++) {
        if (fu->stored[v] && fu->group[v] < 0 && !kd_is_memory(f, v)) {
            kd_str_printf(why, "%%%u is in memory, but no group writes it", v);
            return false;
        }
    }
    return true;
}
