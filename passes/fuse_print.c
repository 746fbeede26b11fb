/* fuse_print.c: a fusion as text, for people (--emit=fused). Group by group: kind and domain, what is loaded and what
 * is stored, how often big values cross memory, and the group's nodes as lines of graph IR. Marks beside a node: `=`
 * it is stored, `.` a reduction kept per row, `@` a reshape of a value in memory, nothing: composed in place. Nodes that
 * several groups compose are printed in each of them.
 */
#include "passes/fuse.h"

#include <inttypes.h>
#include <string.h>

enum { BIG = 4096 };

/* Finds the line of each node in the function's text: node v is defined by the line that begins with "%v = ". */
static const char **node_lines(const KdFunc *f, int **lengths) {
    KdStr text = {.cx = f->cx};
    const char **line = KD_NEW_ARRAY(f->cx, const char *, f->n + 1);
    *lengths = KD_NEW_ARRAY(f->cx, int, f->n + 1);
    kd_print_func(&text, f);
    for (const char *p = text.s; p && *p;) {
        const char *end = strchr(p, '\n');
        end = end ? end : p + strlen(p);
        while (*p == ' ') {
            p++;
        }
        if (*p == '%') {
            KdValue v = 0;
            const char *q = p + 1;
            while (*q >= '0' && *q <= '9') {
                v = v * 10 + (KdValue)(*q++ - '0');
            }
            if (v < f->n && !line[v]) {
                line[v] = p;
                (*lengths)[v] = (int)(end - p);
            }
        }
        p = *end ? end + 1 : end;
    }
    return line;
}

static const char *kind_name(KdGroupKind k) {
    switch (k) {
    case KD_GROUP_MAP:
        return "map";
    case KD_GROUP_ROW:
        return "row";
    case KD_GROUP_ANCHOR:
        return "anchor";
    case KD_GROUP_OPAQUE:
        break;
    }
    return "opaque";
}

static const char *domain_text(const KdFunc *f, const KdGroup *g, const KdDomain *d) {
    KdStr s = {.cx = f->cx};
    kd_str_printf(&s, "%s [", kind_name(g->kind));
    for (int k = 0, n = 0; k < d->n; k++) {
        if (!d->reduced[k]) {
            kd_str_printf(&s, "%s%" PRId64, n++ ? ", " : "", d->dim[k]);
        }
    }
    for (int k = 0, n = 0; k < d->n; k++) {
        if (d->reduced[k]) {
            kd_str_printf(&s, "%s%" PRId64, n++ ? ", " : " | ", d->dim[k]);
        }
    }
    kd_str_printf(&s, "]%s", kd_domain_two_stage(d) && g->kind == KD_GROUP_ROW ? " in two stages" : "");
    return s.s;
}

typedef struct Printer {
    const KdFusion *fu;
    KdStr *s;
    const char **line;
    int *length;
    int *shown; /* by node: 1 + the group that printed it as an alias last */
} Printer;

static void print_aliases(Printer *p, int g, KdValue v) {
    const KdNode *n = kd_node(p->fu->f, v);
    for (int k = 0; k < n->n_in; k++) {
        KdValue o = n->in[k];
        bool inside = p->fu->walk->stamp[o] == p->fu->walk->now; /* of a value that this group stores */
        if (p->fu->alias[o] != KD_NONE && !inside && p->shown[o] != g + 1) {
            p->shown[o] = g + 1;
            print_aliases(p, g, o);
            kd_str_printf(p->s, "  @ %.*s\n", p->length[o], p->line[o]);
        }
    }
}

void kd_print_fusion(KdStr *s, const KdFusion *fu) {
    const KdFunc *f = fu->f;
    int traffic[2] = {0, 0};
    Printer p = {.fu = fu, .s = s, .shown = KD_NEW_ARRAY(f->cx, int, f->n + 1)};
    p.line = node_lines(f, &p.length);
    for (int g = 0; g < fu->groups.n; g++) {
        const KdGroup *group = &fu->groups.v[g];
        KdDomain d = kd_group_domain(fu, group);
        const KdWalk *w = kd_group_walk(fu, g);
        int reads = 0, writes = 0;
        KdStr list = {.cx = f->cx};
        for (int i = 0; i < w->touch.n; i++) {
            if (w->touch.v[i].load) {
                reads += kd_vtype(f, w->touch.v[i].v)->count >= BIG;
                kd_str_printf(&list, " %%%u", w->touch.v[i].v);
            }
        }
        for (int i = 0; i < group->stores.n; i++) {
            writes += kd_vtype(f, group->stores.v[i])->count >= BIG;
        }
        traffic[0] += reads;
        traffic[1] += writes;
        kd_str_printf(s, "group %d: %s, big values read %d, written %d\n  loads%s\n", g,
                      domain_text(f, group, &d), reads, writes, list.s ? list.s : " nothing");
        for (int i = 0; i < w->touch.n; i++) {
            KdValue v = w->touch.v[i].v;
            if (w->touch.v[i].load || !p.line[v] || p.shown[v] == g + 1) {
                continue;
            }
            print_aliases(&p, g, v);
            bool local = false;
            for (int k = 0; k < group->local.n; k++) {
                local = local || group->local.v[k] == v;
            }
            char mark = kd_group_has(fu, g, v) ? '=' : group->kind == KD_GROUP_ROW && local ? '.' : ' ';
            kd_str_printf(s, "  %c %.*s\n", mark, p.length[v], p.line[v]);
        }
    }
    kd_str_printf(s, "%d groups; big values (%d elements and more) read %d, written %d times\n", fu->groups.n,
                  BIG, traffic[0], traffic[1]);
}
