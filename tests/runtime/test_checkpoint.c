/* test_checkpoint.c: what was written reads back; damage of every kind is found and the generation before it is taken; two
 * generations are kept; what a killed run left is cleared away. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "runtime/host/checkpoint.h"
#include "runtime/host/checksum.h"
#include "runtime/host/pth.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct Place {
    char folder[32];
} Place;

static int set_up(void **state) {
    Place *p = calloc(1, sizeof *p);
    strcpy(p->folder, "/tmp/kdc-check-XXXXXX");
    *state = p;
    return mkdtemp(p->folder) ? 0 : -1;
}

static int tear_down(void **state) {
    Place *p = *state;
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", p->folder);
    int rc = system(command);
    free(p);
    return rc;
}

static const char *file_at(const Place *p, int64_t step) {
    static char path[96];
    snprintf(path, sizeof path, "%s/checkpoint-%06" PRId64 ".safetensors", p->folder, step);
    return path;
}

static bool there(const Place *p, int64_t step) {
    return access(file_at(p, step), F_OK) == 0;
}

/* Two tensors whose values tell the step. */
static void write_step(const Place *p, int64_t step) {
    float w[6];
    int32_t k[2] = {(int32_t)step, -1};
    const int64_t dim_w[] = {2, 3}, dim_k[] = {2};
    for (int i = 0; i < 6; i++) {
        w[i] = (float)step + 0.25f * (float)i;
    }
    const KdTensorOut x[] = {{"net.weight", KD_STORED_F32, 2, dim_w, w}, {"count", KD_STORED_I32, 1, dim_k, k}};
    const char *meta[] = {"seed", "7"};
    KdTrouble t = {0};
    if (!kd_checkpoint_write(p->folder, step, x, 2, meta, 1, &t)) {
        fail_msg("%s", t.text);
    }
}

static void expect(const Place *p, int64_t step, const char *note_says) {
    KdTrouble t = {0};
    char *path = NULL, note[512] = "x";
    int64_t got = -1;
    float w[6];
    KdWeights *x = kd_checkpoint_read(p->folder, &got, &path, note, sizeof note, &t);
    if (!x) {
        fail_msg("%s", t.text);
    }
    assert_int_equal(got, step);
    assert_string_equal(path, file_at(p, step));
    assert_string_equal(kd_weights_meta(x, "seed"), "7");
    assert_null(kd_weights_meta(x, "seeds"));
    assert_true(kd_tensor_f32(kd_weights_find(x, "net.weight"), w, &t));
    assert_true(w[0] == (float)step && w[5] == (float)step + 1.25f);
    if (note_says) {
        if (!strstr(note, note_says)) {
            fail_msg("note: %s; expected in it: %s", note, note_says);
        }
    } else {
        assert_string_equal(note, "");
    }
    kd_weights_free(x);
    free(path);
}

static void expect_none(const char *folder, const char *says) {
    KdTrouble t = {0};
    char *path = NULL, note[512];
    int64_t step;
    assert_null(kd_checkpoint_read(folder, &step, &path, note, sizeof note, &t));
    assert_null(path);
    if (!(says ? strstr(t.text, says) != NULL : !*t.text)) {
        fail_msg("got: %s; expected: %s", t.text, says ? says : "");
    }
}

/* The byte at `at` (< 0: from the end) xor `flip`; -length bytes cut off the end. */
static void change(const char *path, long at, int flip, long length) {
    KdTrouble t;
    size_t n;
    char *b = kd_file_read(path, &n, &t);
    assert_non_null(b);
    if (flip) {
        b[at < 0 ? (long)n + at : at] ^= (char)flip;
    }
    n -= (size_t)-length;
    FILE *f = fopen(path, "wb");
    assert_int_equal(fwrite(b, 1, n, f), n);
    fclose(f);
    free(b);
}

static void sum_is_crc32c(void **state) {
    (void)state;
    unsigned char zeros[32] = {0}; /* RFC 3720, B.4 */
    assert_int_equal(kd_crc32c(0, "123456789", 9), 0xE3069283u);
    assert_int_equal(kd_crc32c(0, zeros, 32), 0x8A9136AAu);
    assert_int_equal(kd_crc32c(kd_crc32c(0, "1234", 4), "56789", 5), 0xE3069283u);
    assert_int_equal(kd_crc32c(0, "", 0), 0);
}

static void two_generations(void **state) {
    const Place *p = *state;
    expect_none(p->folder, NULL);
    write_step(p, 9);
    expect(p, 9, NULL);
    write_step(p, 100);
    assert_true(there(p, 9));
    write_step(p, 1000000); /* more digits than the name's width: newest by number */
    assert_true(!there(p, 9) && there(p, 100) && there(p, 1000000));
    expect(p, 1000000, NULL);
    write_step(p, 1000000); /* the same again */
    assert_true(there(p, 100));
    expect(p, 1000000, NULL);
    write_step(p, 200); /* went on from an earlier one: what was just written stays */
    assert_true(there(p, 100) && there(p, 200) && there(p, 1000000));
}

static void damage_falls_back(void **state) {
    const Place *p = *state;
    write_step(p, 1);
    write_step(p, 2);
    change(file_at(p, 2), -3, 0x10, 0); /* a bit of the last tensor */
    expect(p, 1, "checkpoint-000002.safetensors is damaged");
    write_step(p, 2);
    change(file_at(p, 2), 0, 0, -1);
    expect(p, 1, "checkpoint-000002.safetensors");
    write_step(p, 2);
    change(file_at(p, 2), 0, 0x01, 0); /* the header's length */
    expect(p, 1, "checkpoint-000002.safetensors");
    FILE *f = fopen(file_at(p, 2), "wb"); /* empty */
    fclose(f);
    expect(p, 1, "checkpoint-000002.safetensors");
    change(file_at(p, 1), -1, 0x80, 0);
    expect_none(p->folder, "checkpoint-000002.safetensors"); /* both: the newest is named */
    write_step(p, 3);
    expect(p, 3, NULL);
    assert_true(there(p, 2) && !there(p, 1));
}

static void only_damaged(void **state) {
    const Place *p = *state;
    write_step(p, 5);
    change(file_at(p, 5), -1, 1, 0);
    expect_none(p->folder, "is damaged");
}

/* A checkpoint named as a file of weights: nothing older is taken for it. */
static void named_directly(void **state) {
    const Place *p = *state;
    KdTrouble t = {0};
    write_step(p, 5);
    KdWeights *w = kd_checkpoint_file_read(file_at(p, 5), &t);
    assert_non_null(w);
    kd_weights_free(w);
    change(file_at(p, 5), -1, 1, 0);
    assert_null(kd_checkpoint_file_read(file_at(p, 5), &t));
    assert_false(t.machine);
    assert_non_null(strstr(t.text, "checkpoint-000005.safetensors is damaged: its checksum is "));
    const int64_t dim[] = {1};
    const float v = 1;
    const KdTensorOut x = {"a", KD_STORED_F32, 1, dim, &v};
    const char *foreign[] = {"checksum", "sha256 of something", "step", "8"};
    assert_true(kd_weights_write(file_at(p, 8), &x, 1, foreign, 2, &t)); /* not kdc's: nothing to hold it against */
    w = kd_checkpoint_file_read(file_at(p, 8), &t);
    assert_non_null(w);
    kd_weights_free(w);
}

/* What may never end, or never begin, is refused with a sentence. */
static void no_plain_file(void **state) {
    const Place *p = *state;
    KdTrouble t = {0};
    char path[96];
    size_t n;
    assert_null(kd_checkpoint_file_read("/dev/zero", &t));
    assert_string_equal(t.text, "/dev/zero is a device, not a plain file");
    assert_null(kd_weights_read("/dev/zero", &t));
    assert_null(kd_file_read("/dev/zero", &n, &t));
    assert_string_equal(t.text, "/dev/zero: a device that gives more than 64 MiB; a file is expected");
    assert_false(t.machine);
    snprintf(path, sizeof path, "%s/pipe", p->folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    alarm(20); /* it would block for ever */
    assert_null(kd_checkpoint_file_read(path, &t));
    assert_non_null(strstr(t.text, "pipe is a pipe, not a plain file"));
    alarm(0);
    char *text = kd_file_read("/dev/null", &n, &t); /* streams that end are fine */
    assert_true(text && n == 0);
    free(text);
}

static void no_metadata(void **state) {
    const Place *p = *state;
    const int64_t dim[] = {1};
    const float v = 1;
    const KdTensorOut x = {"a", KD_STORED_F32, 1, dim, &v};
    const char *sum[] = {"checksum", "00000000", "step", "8"};
    char from[96];
    KdTrouble t;
    assert_true(kd_weights_write(file_at(p, 8), &x, 1, NULL, 0, &t));
    expect_none(p->folder, "is no checkpoint");
    assert_true(kd_weights_write(file_at(p, 8), &x, 1, sum, 1, &t));
    expect_none(p->folder, "step");
    assert_true(kd_weights_write(file_at(p, 8), &x, 1, sum, 2, &t));
    expect_none(p->folder, "is damaged");
    write_step(p, 4);
    snprintf(from, sizeof from, "%s", file_at(p, 4));
    assert_int_equal(rename(from, file_at(p, 8)), 0);
    expect_none(p->folder, "holds step 4");
    write_step(p, 7);
    expect(p, 7, "checkpoint-000008");
}

/* The number of a process that is gone. */
static long dead(void) {
    pid_t pid = fork();
    if (pid == 0) {
        _exit(0);
    }
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    return pid;
}

static void left_overs(void **state) {
    const Place *p = *state;
    char gone[96], living[96], other[96];
    snprintf(gone, sizeof gone, "%s/.kdc-%ld-0.tmp", p->folder, dead());
    snprintf(living, sizeof living, "%s/.kdc-%ld-0.tmp", p->folder, (long)getppid());
    snprintf(other, sizeof other, "%s/checkpoint-000099.safetensors.part", p->folder);
    const char *all[] = {gone, living, other};
    for (int i = 0; i < 3; i++) {
        FILE *f = fopen(all[i], "wb");
        assert_non_null(f);
        fputs("half", f);
        fclose(f);
    }
    expect_none(p->folder, NULL);
    write_step(p, 1);
    expect(p, 1, NULL);
    assert_int_not_equal(access(gone, F_OK), 0);
    assert_int_equal(access(living, F_OK), 0);
    assert_int_equal(access(other, F_OK), 0);
}

static void folders_at_fault(void **state) {
    const Place *p = *state;
    char path[96];
    const int64_t dim[] = {1};
    const float v = 1;
    const KdTensorOut x = {"a", KD_STORED_F32, 1, dim, &v};
    KdTrouble t = {0};
    snprintf(path, sizeof path, "%s/nowhere", p->folder);
    expect_none(path, "nowhere");
    assert_false(kd_checkpoint_write(path, 1, &x, 1, NULL, 0, &t));
    assert_non_null(strstr(t.text, "nowhere/checkpoint-000001.safetensors"));
    if (geteuid() != 0) { /* root may write anywhere */
        assert_int_equal(chmod(p->folder, 0555), 0);
        assert_false(kd_checkpoint_write(p->folder, 1, &x, 1, NULL, 0, &t));
        assert_true(t.machine && strstr(t.text, "checkpoint-000001.safetensors"));
        assert_int_equal(chmod(p->folder, 0755), 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sum_is_crc32c),
        cmocka_unit_test_setup_teardown(two_generations, set_up, tear_down),
        cmocka_unit_test_setup_teardown(damage_falls_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(only_damaged, set_up, tear_down),
        cmocka_unit_test_setup_teardown(named_directly, set_up, tear_down),
        cmocka_unit_test_setup_teardown(no_plain_file, set_up, tear_down),
        cmocka_unit_test_setup_teardown(no_metadata, set_up, tear_down),
        cmocka_unit_test_setup_teardown(left_overs, set_up, tear_down),
        cmocka_unit_test_setup_teardown(folders_at_fault, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
