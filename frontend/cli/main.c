/* main.c: kdc: a table of verbs. Exit codes: 0 done, 1 the input is at fault, 2 usage, 3 the machine is at fault. */
#include "frontend/cli/options.h"

#include "codegen/codegen.h"

#include <string.h>

typedef struct Verb {
    const char *name; /* "" for the one that needs no word */
    const char *usage, *summary, *more;
    int (*run)(const KdcArgs *a);
} Verb;

static const Verb verbs[KDC_VERB_COUNT] = {
    [KDC_VERB_COMPILE] = {"", "FILE.kd[:NAME] [options]", "compile everything in the file and say what came out",
                          "Without -o or --emit: parameters, multiply-accumulates (noT, Tin, Tout), memory, passes and\n"
                          "kernels of every network and session declared in the file.\n",
                          kdc_cmd_compile},
    [KDC_VERB_TRAIN] = {"train", "FILE.kd[:SESSION] --data FOLDER [options]",
                        "compile a training session and train on a folder of images",
                        "Prints the plan (time per step, memory, total) first and refuses one that does not fit. Ctrl-C saves.\n"
                        "The run folder gets checkpoints, log.jsonl, TensorBoard events, samples/ and report.html.\n",
                        kdc_cmd_train},
    [KDC_VERB_RUN] = {"run", "FILE.kd:NET --weights W -i IN -o OUT [options]",
                      "translate an image, or a folder of them",
                      "Images of any size that the network allows: each is padded by mirroring to what the network needs and\n"
                      "the answer cut back. Gray becomes R = G = B, alpha is dropped, 16 bits become 8.\n",
                      kdc_cmd_run},
    [KDC_VERB_EVAL] = {"eval", "FILE.kd:NET --weights W --data FOLDER [options]",
                       "metrics on a test set: L1, PSNR, SSIM, FID, mIoU",
                       "Each metric is computed as soon as its inputs are given.\n", kdc_cmd_eval},
    [KDC_VERB_EXPORT] = {"export", "FILE.kd:NET --weights W --size HxW -o FOLDER [options]",
                         "a library for C and C++ that depends on nothing",
                         "Writes NET.h, NET.o, libNET.a, and main.c, a sample that builds with one line.\n", kdc_cmd_export},
    [KDC_VERB_BENCH] = {"bench", "FILE.kd:NET [options]", "latency, GFLOP/s, share of this machine's peak, memory", "",
                        kdc_cmd_bench},
    [KDC_VERB_COMPARE] = {"compare", "FILE.kd:NET[PARAM=VALUE,...] ... [options]",
                          "networks side by side: parameters, MACs, memory, latency, metrics",
                          "A row for each network; ratios are to the first. In [...] are a net's own hyper-parameters or, of a network\n"
                          "that a let declares, the program's params. Latency is on one core and on all, in rounds over all\n"
                          "networks. With --data and --weights the metrics of kdc eval.\n",
                          kdc_cmd_compare},
    [KDC_VERB_PRUNE] = {"prune", "FILE.kd:NET --weights W --macs N -o STUDENT.kd [options]",
                        "a narrower network from a trained one, to a target of MACs, parameters or latency",
                        "One of --macs, --params, --latency says how small, or --to gives the widths. --by says which channels stay:\n"
                        "  scale   one threshold over the scales of norms (CAT; GCC on batch norms)\n"
                        "  l1      one threshold over the mean |w| of filters (GCC on convolutions)\n"
                        "  norm    the same share of each layer, by the L1 norm of filters (the default; GAN Compression with --to)\n"
                        "STUDENT.kd holds the network, STUDENT.safetensors its weights.\n",
                        kdc_cmd_prune},
    [KDC_VERB_SEARCH] = {"search", "FILE.kd:NET --weights W --data FOLDER --objective METRIC --macs N -o FOLDER [options]",
                         "the best configuration of a network within a budget",
                         "Searches the `choice`s that NET depends on (and params that --choose names) by evolution. At least one budget:\n"
                         "--macs, --params, --memory, --latency. FOLDER gets search.json (all configurations; --resume goes on from it),\n"
                         "search.html and front.png, and best.safetensors, the best one's weights. Ctrl-C saves.\n",
                         kdc_cmd_search},
    [KDC_VERB_IMPORT] = {"import", "CHECKPOINT FILE.kd:NET -o W.safetensors [options]",
                         "bring in weights: PyTorch .pth and .pt (zip and legacy), safetensors",
                         "By name, by the key names of the official checkpoints, by --map, or by order and shape; the map\n"
                         "that was used is printed.\n",
                         kdc_cmd_import},
    [KDC_VERB_DATA] = {"data", "FOLDER [options]", "look a data set over: counts, sizes, names, labels, broken files",
                       "Layouts (PHASE is train, val, test, or another name; .png, .jpg and .jpeg):\n"
                       "  aligned   FOLDER/PHASE/X         two images side by side: A left, B right\n"
                       "  unpaired  FOLDER/PHASEA/X        and FOLDER/PHASEB/Y: trainA, trainB\n"
                       "  folders   FOLDER/A/PHASE/X       and FOLDER/B/PHASE/X with the same name\n"
                       "  labels    FOLDER/PHASE_label/X   class indices (PNG); images in PHASE_img, aligned/PHASE (left half) or\n"
                       "                                   PHASE; instance ids in PHASE_inst if there are any\n"
                       "  plain     FOLDER/PHASE/X         or FOLDER/X: single images\n"
                       "Every file is decoded; exit code 1 when one cannot be read or holds a label outside --classes.\n",
                       kdc_cmd_data},
    [KDC_VERB_SIMILARITY] = {"similarity", "FILE.kd:S --against T --tap NAME --weights W -i IN -o OUT [options]",
                             "where a teacher's features resemble one patch of a student's",
                             "A picture of four: what went in, the student's and the teacher's results, and over the picture how\n"
                             "similar the teacher's feature at each position is to the student's at the patch that is framed.\n"
                             "FILE.kd may be a run folder of kdc train, RUN:S: its program, its -D and its weights are meant.\n",
                             kdc_cmd_similarity},
    [KDC_VERB_ATTENTION] = {"attention", "FILE.kd:NET --tap NAME --weights W -i IN -o OUT [options]",
                            "the positions of a network's features with the largest mean absolute value",
                            "A picture of three: what went in, the mean over channels of |feature| as heat over it, and the K\n"
                            "largest positions, which ReKo distils. FILE.kd may be a run folder of kdc train, RUN:NET.\n",
                            kdc_cmd_attention},
    [KDC_VERB_CALL] = {"call", "FILE.kd:NAME --in IN.safetensors --out OUT.safetensors [options]",
                       "evaluate a fn, a net or steps of a session on given tensors",
                       "Inputs are taken from --in by parameter name, weights by their own names there, then from\n"
                       "--weights by name or by order and shape; what is given nowhere is initialised from --seed.\n"
                       "A session runs --steps N steps, says how its logs go (unless -q), and writes its weights\n"
                       "and states, log.NAME with one value a step, and show.NAME of the last step. An input with\n"
                       "one dimension more than its parameter is sliced: a slice a step, then from the start.\n",
                       kdc_cmd_call},
};

const char *kdc_verb_name(KdcVerbId v) {
    return verbs[v].name;
}

static void print_help(FILE *out, KdcVerbId v) {
    const Verb *verb = &verbs[v];
    fprintf(out, "usage: kdc %s%s%s\n%s\n\n", verb->name, *verb->name ? " " : "", verb->usage, verb->summary);
    if (v == KDC_VERB_COMPILE) {
        for (int i = 1; i < KDC_VERB_COUNT; i++) {
            fprintf(out, "       kdc %s %s\n%s\n\n", verbs[i].name, verbs[i].usage, verbs[i].summary);
        }
        fprintf(out, "       kdc VERB --help\n\n");
    }
    fprintf(out, "%s\noptions:\n", verb->more);
    kdc_options_help(out, v);
    fprintf(out, "\nexit codes: 0 done, 1 the input is at fault, 2 usage, 3 the machine is at fault%s\n",
            v == KDC_VERB_TRAIN || v == KDC_VERB_SEARCH || v == KDC_VERB_COMPILE ? ", 130 interrupted with the state saved" : "");
}

static int print_version(void) {
    KdContext *cx = kd_context_new();
    KdTarget t;
    KdLanding l;
    printf("kdc %s\n", KDC_VERSION);
    if (!cx) {
        return 3;
    }
    if (KD_TRY(cx, l)) {
        if (kd_target_host(cx, &t)) {
            printf("LLVM 19, %s, %s, %d lanes%s\n", t.triple, t.cpu, t.machine.lanes,
                   t.machine.fma ? ", FMA" : "");
        }
        kd_landing_pop(cx);
    }
    kd_context_free(cx);
    return 0;
}

static int run(KdcArgs *a, int argc, char **argv) {
    int error = kdc_args_parse(a, argc, argv);
    if (error) {
        return error;
    }
    if (a->help) {
        print_help(stdout, a->verb);
        return 0;
    }
    if (a->version) {
        return print_version();
    }
    bool without = a->list_ops || (a->verb == KDC_VERB_DATA && a->other) || (a->verb == KDC_VERB_EVAL && a->pred);
    if (!a->file && !without) {
        kdc_usage_error(a, a->verb == KDC_VERB_DATA      ? "which folder?"
                           : a->verb == KDC_VERB_COMPARE ? "which networks? kdc compare A.kd:NET B.kd:NET ..."
                                                         : "which file?");
        if (argc < 2) {
            print_help(stderr, a->verb);
        }
        return 2;
    }
    return verbs[a->verb].run(a);
}

int main(int argc, char **argv) {
    KdcArgs a;
    int code = run(&a, argc, argv);
    kdc_args_free(&a);
    if ((fflush(stdout) != 0 || ferror(stdout)) && code == 0) {
        fprintf(stderr, "kdc: error: cannot write to standard output\n");
        code = 3;
    }
    return code;
}
