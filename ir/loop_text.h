/* loop_text.h: words that loop_print.c and loop_parse.c must agree on. Private to them. */
#ifndef KL_LOOP_TEXT_H
#define KL_LOOP_TEXT_H

#include "ir/loop.h"

extern const char *const kl_op_text[KL_OP_COUNT];
extern const char *const kl_scalar_text[6]; /* by KlScalar */
extern const char *const kl_pred_text[6];   /* by KlPred */
extern const char *const kl_access_text[4]; /* by KlAccess */

#endif
