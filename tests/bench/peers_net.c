/* peers_net.c: runs a network as `kdc export` wrote it: what a user of the library gets.
 *
 *     cc -O2 -DNET=R64 -DHEADER='"R64.h"' -IDIR peers_net.c DIR/libR64.a [-fopenmp] -o R64
 *
 * ./R64 serves (peers_serve.h); ./R64 once runs once and ends: a cold start. Of OpenMP it uses OMP_NUM_THREADS.
 */
#include "peers_serve.h"

#include HEADER

#define JOIN2(a, b) a##b
#define JOIN(a, b) JOIN2(a, b)
#define OF(name) JOIN(NET, name)

static float x[OF(_INPUT_COUNT)], y[OF(_OUTPUT_COUNT)];

static double once(void *user) {
    double start = peers_now();
    if (OF(_run)(user, x, y)) {
        peers_fail("the network's run failed");
    }
    return 1e3 * (peers_now() - start);
}

int main(int argc, char **argv) {
    OF(_net) net;
    if (OF(_init)(&net, NULL)) {
        peers_fail("the network's init failed");
    }
    peers_input(x, OF(_INPUT_COUNT));
    if (argc > 1 && strcmp(argv[1], "once") == 0) {
        once(&net);
        printf("%.9g\n", y[0]);
    } else {
        peers_serve(once, &net, y, OF(_OUTPUT_COUNT));
    }
    OF(_free)(&net);
    return 0;
}
