/* shapes.c: what a network is applied to, as far as the command line says: --shape X=DIMS, whose form options.c has checked.
 *
 * Where it does not say, a network that cannot be elaborated by itself (conv2d[8, 3] takes any number of channels) is tried with
 * a picture of three channels, as picture.c does for kdc run: then all verbs mean the same network by the same name.
 */
#include "frontend/cli/common.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { SIZE = 256 }; /* the language's own, of a dimension called h or w */

static bool shape_of(KdcProgram *p, const char *text, KdcShape *s) {
    const char *at = strchr(text, '=');
    *s = (KdcShape){.name = kd_intern(p->cx, text, (size_t)(at - text)), .dtype = KDC_F32};
    for (at++; *at; at += *at == 'x') {
        char *end;
        errno = 0;
        long long d = strtoll(at, &end, 10);
        if (s->rank == KD_MAX_RANK || errno || d < 1) {
            kd_error(p->cx, 0, "--shape %s: expected at most %d sizes from 1 on", text, KD_MAX_RANK);
            return false;
        }
        s->dim[s->rank++] = d;
        at = end;
    }
    return true;
}

bool kdc_cli_shapes(KdcProgram *p, const KdcArgs *a, KdcShapes *s) {
    KdcShape *given = KD_NEW_ARRAY(p->cx, KdcShape, a->n_shapes + 1);
    for (int i = 0; i < a->n_shapes; i++) {
        if (!shape_of(p, a->shapes[i], &given[i])) {
            return false;
        }
    }
    s->given = given;
    s->n_given = a->n_shapes;
    return true;
}

void kdc_cli_default_shape(KdcProgram *p, const KdcArgs *a, const char *name, KdcShapes *s) {
    KdcShape *given = KD_NEW_ARRAY(p->cx, KdcShape, s->n_given + 1), *x = &given[s->n_given];
    KdcShapes with = *s;
    KdNetOptions o;
    bool told = false;
    for (int i = 0; i < s->n_given; i++) {
        given[i] = s->given[i];
        told = told || strcmp(given[i].name, "x") == 0;
    }
    if (told || !kdc_net_options(p, s, &o) || kdc_probe(p, name, false, &o, NULL, 0, NULL)) {
        return;
    }
    *x = (KdcShape){.name = "x", .dtype = KDC_F32, .rank = 4, .dim = {1, 3, SIZE, SIZE}};
    x->dim[0] = a->batch ? a->batch : x->dim[0];
    x->dim[2] = a->height ? a->height : x->dim[2];
    x->dim[3] = a->width ? a->width : x->dim[3];
    with.given = given;
    with.n_given++;
    if (kdc_net_options(p, &with, &o) && kdc_probe(p, name, false, &o, NULL, 0, NULL)) {
        *s = with;
    }
}

bool kdc_cli_check_shapes(KdcProgram *p, const KdcArgs *a, KdcTensor *const *t, int n) {
    KdStr takes = {.cx = p->cx};
    for (int k = 0; k < n; k++) {
        if (t[k]->role == KDC_DATA && t[k]->rank > 0) {
            kd_str_printf(&takes, "%s%s: %s", takes.n ? ", " : "", t[k]->name, kdc_tensor_shape(p->cx, t[k]));
        }
    }
    for (int i = 0; i < a->n_shapes; i++) {
        const char *text = a->shapes[i];
        size_t length = strcspn(text, "=");
        bool found = false;
        for (int k = 0; k < n; k++) {
            found = found || (t[k]->role == KDC_DATA && strncmp(t[k]->name, text, length) == 0 && !t[k]->name[length]);
        }
        if (!found) {
            kd_error(p->cx, 0, "--shape: no input of %s is called '%.*s'; it takes %s", a->name, (int)length, text,
                     takes.n ? takes.s : "no data");
            return false;
        }
    }
    return true;
}
