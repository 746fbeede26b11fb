/* channels.h: which channels of a network belong together, so that some can be taken away everywhere at once.
 *
 * An analysis of one network's graph, as it was elaborated. A channel is a set of places: indices of dimensions of
 * weights and buffers that stand or fall together, because what a filter makes is normalised, added to something,
 * joined to something, and read by other filters. Channels that one filter makes together are a group: the width of a
 * layer, or of a whole residual stream.
 */
#ifndef KD_CHANNELS_H
#define KD_CHANNELS_H

#include "ir/ir.h"

typedef struct KdPlaceOf { /* a slice of an input of the function: index `index` of dimension `dim` */
    int input;             /* its number in f->inputs; -1: there is none */
    int dim, index;
} KdPlaceOf;

typedef struct KdChannelGroup {
    const char *name; /* of the first weight that makes it, without its last part: "down[0].conv" */
    int n;            /* channels */
    const char *why;  /* none of its channels can be taken away: the reason; NULL: they can */
    KdLoc where;      /* of the reason, or of the first layer that makes it */
    /* By channel: */
    KdPlaceOf *scale; /* the first factor in program order that is a weight's number for each channel: a norm's scale */
    KD_VEC(KdPlaceOf) *makers; /* filters that make it: rows of convolutions' and products' weights */
} KdChannelGroup;

/* A dimension of an input: which channel each index is. NULL: of no group at all. */
typedef struct KdChannelDim { int *group, *channel; } KdChannelDim; /* group -1: of none */

typedef struct KdChannels {
    const KdFunc *f;
    KD_VEC(KdChannelGroup) groups;
    KdChannelDim (*dim)[KD_MAX_RANK]; /* by number in f->inputs */
} KdChannels;

/* Of a network without gradients and updates. What cannot be followed makes its channels stay, and why says so. */
KdChannels *kd_channels(const KdFunc *f);

/* How many channels of each group a narrower network g of the same weights' names has: count[i] for c->groups.v[i]. g
 * may have fewer weights; a group of which none is left has 0. false: g is not c's network with fewer channels; *why
 * says what does not fit. */
bool kd_channels_fit(const KdChannels *c, const KdFunc *g, int *count, KdStr *why);

#endif
