/* text.h: what printing and parsing of graph IR share. Private to ir/. */
#ifndef KD_TEXT_H
#define KD_TEXT_H

#include "ir/ir.h"

/* What a function's name may consist of without quotes. */
static inline bool kd_name_char(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '$';
}

/* Are the floats among the op's attributes elements of its result, that is, single precision? */
static inline bool kd_single_floats(KdOp op, const KdType *t) {
    return (kd_op_info[op].flags & KD_TYPED) != 0 && t->dtype == KD_F32;
}

#endif
