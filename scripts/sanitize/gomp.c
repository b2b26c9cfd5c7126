/* ThreadSanitizer does not see the barriers of libgomp, which is not instrumented. This library, loaded before it, tells
   ThreadSanitizer the happens-before relations of a parallel region: its start follows what the caller did before, and
   what the caller does next follows the end of every thread. */
#include <dlfcn.h>

void __tsan_acquire(void*);
void __tsan_release(void*);

typedef struct { void (*function)(void*); void* data; char begin, end; } region;

static void member(void* context) {
    region* r = context;
    __tsan_acquire(&r->begin);
    r->function(r->data);
    __tsan_release(&r->end);
}

void GOMP_parallel(void (*function)(void*), void* data, unsigned threads, unsigned flags) {
    static void (*original)(void (*)(void*), void*, unsigned, unsigned);
    region r = {function, data, 0, 0};
    if (!original) original = dlsym(dlopen("libgomp.so.1", RTLD_NOW), "GOMP_parallel");
    __tsan_release(&r.begin);
    original(member, &r, threads, flags);
    __tsan_acquire(&r.end);
}
