/* peers_ort.c: runs an ONNX file through ONNX Runtime's C API, at its best settings (all graph optimisations).
 *
 *     ./peers_ort LIBRARY MODEL.onnx THREADS [once]
 *
 * LIBRARY is libonnxruntime.so.1, loaded at run time. Its package for Node has no header, so the few functions are
 * declared here: OrtApi is a struct of function pointers whose order never changes between versions (new ones are added
 * at the end), so the place of each is its number in the public documentation. The model has the input "x" and the
 * output "y", both [1, 3, 256, 256].
 */
#include "peers_serve.h"

#include <dlfcn.h>
#include <stdint.h>

enum { COUNT = 3 * 256 * 256 };
enum { LOG_ERROR = 3, ALL_OPTIMISATIONS = 99, FLOAT = 1, DEVICE_ALLOCATOR = 0, MEMORY_DEFAULT = 0 };

/* Places in OrtApi. */
enum {
    GET_ERROR_MESSAGE = 2, CREATE_ENV = 3, CREATE_SESSION = 7, RUN = 9, CREATE_SESSION_OPTIONS = 10,
    SET_GRAPH_OPTIMIZATION_LEVEL = 23, SET_INTRA_OP_NUM_THREADS = 24, CREATE_TENSOR_WITH_DATA = 49,
    CREATE_CPU_MEMORY_INFO = 69,
};

typedef void Status; /* NULL: it went well */
typedef void (*Function)(void);
typedef Status *CreateEnv(int level, const char *id, void **out);
typedef Status *CreateOptions(void **out);
typedef Status *SetNumber(void *options, int value);
typedef Status *CreateSession(const void *env, const char *path, const void *options, void **out);
typedef Status *CreateMemory(int allocator, int kind, void **out);
typedef Status *CreateTensor(const void *memory, void *data, size_t bytes, const int64_t *shape, size_t rank, int type,
                             void **out);
typedef Status *RunSession(void *session, const void *options, const char *const *in, const void *const *inputs,
                           size_t n_in, const char *const *out, size_t n_out, void **outputs);
typedef struct ApiBase {
    const Function *(*get)(uint32_t version);
    const char *(*version)(void);
} ApiBase;

typedef struct Ort {
    const Function *api;
    void *session, *input, *output;
    float x[COUNT], y[COUNT];
} Ort;

static void check(const Ort *o, Status *s) {
    if (s) {
        peers_fail(((const char *(*)(const Status *))o->api[GET_ERROR_MESSAGE])(s));
    }
}

static void *tensor(const Ort *o, const void *memory, float *data) {
    static const int64_t shape[] = {1, 3, 256, 256};
    void *t;
    CreateTensor *create = (CreateTensor *)o->api[CREATE_TENSOR_WITH_DATA];
    check(o, create(memory, data, sizeof(float) * COUNT, shape, 4, FLOAT, &t));
    return t;
}

static void start(Ort *o, const char *library, const char *model, int threads) {
    void *lib = dlopen(library, RTLD_NOW), *env, *options, *memory;
    const ApiBase *(*base)(void) = NULL;
    if (lib) {
        *(void **)&base = dlsym(lib, "OrtGetApiBase");
    }
    if (!base) {
        peers_fail(dlerror());
    }
    o->api = base()->get(13); /* any since then has what is used here */
    if (!o->api) {
        peers_fail("this ONNX Runtime is older than 1.13");
    }
    check(o, ((CreateEnv *)o->api[CREATE_ENV])(LOG_ERROR, "peers", &env));
    check(o, ((CreateOptions *)o->api[CREATE_SESSION_OPTIONS])(&options));
    check(o, ((SetNumber *)o->api[SET_GRAPH_OPTIMIZATION_LEVEL])(options, ALL_OPTIMISATIONS));
    check(o, ((SetNumber *)o->api[SET_INTRA_OP_NUM_THREADS])(options, threads));
    check(o, ((CreateSession *)o->api[CREATE_SESSION])(env, model, options, &o->session));
    check(o, ((CreateMemory *)o->api[CREATE_CPU_MEMORY_INFO])(DEVICE_ALLOCATOR, MEMORY_DEFAULT, &memory));
    o->input = tensor(o, memory, o->x);
    o->output = tensor(o, memory, o->y);
    peers_input(o->x, COUNT);
}

static double once(void *user) {
    Ort *o = user;
    const char *const in[] = {"x"}, *const out[] = {"y"};
    const void *const inputs[] = {o->input};
    double start = peers_now();
    check(o, ((RunSession *)o->api[RUN])(o->session, NULL, in, inputs, 1, out, 1, &o->output));
    return 1e3 * (peers_now() - start);
}

int main(int argc, char **argv) {
    static Ort o;
    if (argc < 4) {
        peers_fail("usage: peers_ort LIBRARY MODEL THREADS [once]");
    }
    start(&o, argv[1], argv[2], atoi(argv[3]));
    if (argc > 4) {
        once(&o);
        printf("%.9g\n", o.y[0]);
    } else {
        peers_serve(once, &o, o.y, COUNT);
    }
    return 0;
}
