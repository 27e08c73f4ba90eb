/*
 * Registers. Each thread loads one set of registers with known values, spins on a flag in memory without touching
 * them, and compares them when the flag is raised: whatever happened in between must have preserved all of them.
 */
#include "common.h"

#include <asm/prctl.h>
#include <cpuid.h>

static atomic_int settled;
static volatile int flag;

struct spinner {
    const char *name;
    bool (*supported)(void);
    void (*run)(void);
};

static void compare(const char *name, const void *actual, const void *expected, size_t size) {
    for (size_t i = 0; i < size; i++)
        if (((const uint8_t *)actual)[i] != ((const uint8_t *)expected)[i]) {
            complain(__FILE__, __LINE__, "%s: byte %zu is %#x, not %#x", name, i, ((const uint8_t *)actual)[i],
                     ((const uint8_t *)expected)[i]);
            return;
        }
}

static bool always(void) {
    return true;
}

/* rax, rbx, rcx, rdx, rsi, rbp, r8 ... r15, flags; rdi holds the address of the flag, rsp is the stack. */
void spin_general(volatile int *flag, uint64_t *out);
__asm__(".text\n"
        ".globl spin_general\n"
        "spin_general:\n"
        "push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n"
        "push %rsi\n"
        "mov $0x1111111111111111, %rax\n"
        "mov $0x2222222222222222, %rbx\n"
        "mov $0x3333333333333333, %rcx\n"
        "mov $0x4444444444444444, %rdx\n"
        "mov $0x5555555555555555, %rsi\n"
        "mov $0x6666666666666666, %rbp\n"
        "mov $0x7777777777777777, %r8\n"
        "mov $0x8888888888888888, %r9\n"
        "mov $0x9999999999999999, %r10\n"
        "mov $0xaaaaaaaaaaaaaaaa, %r11\n"
        "mov $0xbbbbbbbbbbbbbbbb, %r12\n"
        "mov $0xcccccccccccccccc, %r13\n"
        "mov $0xdddddddddddddddd, %r14\n"
        "mov $0xeeeeeeeeeeeeeeee, %r15\n"
        "std\n"
        "1: cmpl $0, (%rdi)\n"
        "je 1b\n"
        "pushfq\n"
        "cld\n"
        "push %rax\n"
        "mov 16(%rsp), %rax\n"
        "mov %rbx, 8(%rax)\n mov %rcx, 16(%rax)\n mov %rdx, 24(%rax)\n mov %rsi, 32(%rax)\n mov %rbp, 40(%rax)\n"
        "mov %r8, 48(%rax)\n mov %r9, 56(%rax)\n mov %r10, 64(%rax)\n mov %r11, 72(%rax)\n mov %r12, 80(%rax)\n"
        "mov %r13, 88(%rax)\n mov %r14, 96(%rax)\n mov %r15, 104(%rax)\n mov %rdi, 112(%rax)\n"
        "pop %rbx\n mov %rbx, (%rax)\n"
        "pop %rbx\n mov %rbx, 120(%rax)\n"
        "pop %rsi\n"
        "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n"
        "ret\n");

static void general(void) {
    uint64_t out[16];
    settled++;
    spin_general(&flag, out);
    for (int i = 0; i < 14; i++)
        EQUAL(out[i], 0x1111111111111111ULL * (unsigned)(i + 1));
    EQUAL(out[14], &flag);
    /* The direction flag, and none of trap and alignment check. */
    EQUAL(out[15] & (1 << 10 | 1 << 8 | 1 << 18), 1 << 10);
}

/* Sixteen xmm registers and mxcsr. */
static void sse(void) {
    uint8_t in[16 * 16] __attribute__((aligned(16))), out[16 * 16] __attribute__((aligned(16)));
    uint32_t control = 0x1f80 | 0x6000 | 0x8000, before, after;
    fill(in, sizeof in, 1);
    settled++;
    __asm__ volatile("stmxcsr %[before]\n ldmxcsr %[control]\n"
                     "movdqa 0(%[in]), %%xmm0\n movdqa 16(%[in]), %%xmm1\n movdqa 32(%[in]), %%xmm2\n"
                     "movdqa 48(%[in]), %%xmm3\n movdqa 64(%[in]), %%xmm4\n movdqa 80(%[in]), %%xmm5\n"
                     "movdqa 96(%[in]), %%xmm6\n movdqa 112(%[in]), %%xmm7\n movdqa 128(%[in]), %%xmm8\n"
                     "movdqa 144(%[in]), %%xmm9\n movdqa 160(%[in]), %%xmm10\n movdqa 176(%[in]), %%xmm11\n"
                     "movdqa 192(%[in]), %%xmm12\n movdqa 208(%[in]), %%xmm13\n movdqa 224(%[in]), %%xmm14\n"
                     "movdqa 240(%[in]), %%xmm15\n"
                     "1: cmpl $0, (%[flag])\n je 1b\n"
                     "movdqa %%xmm0, 0(%[out])\n movdqa %%xmm1, 16(%[out])\n movdqa %%xmm2, 32(%[out])\n"
                     "movdqa %%xmm3, 48(%[out])\n movdqa %%xmm4, 64(%[out])\n movdqa %%xmm5, 80(%[out])\n"
                     "movdqa %%xmm6, 96(%[out])\n movdqa %%xmm7, 112(%[out])\n movdqa %%xmm8, 128(%[out])\n"
                     "movdqa %%xmm9, 144(%[out])\n movdqa %%xmm10, 160(%[out])\n movdqa %%xmm11, 176(%[out])\n"
                     "movdqa %%xmm12, 192(%[out])\n movdqa %%xmm13, 208(%[out])\n movdqa %%xmm14, 224(%[out])\n"
                     "movdqa %%xmm15, 240(%[out])\n"
                     "stmxcsr %[after]\n ldmxcsr %[before]\n"
                     : [before] "=m"(before), [after] "=m"(after)
                     : [in] "r"(in), [out] "r"(out), [flag] "r"(&flag), [control] "m"(control)
                     : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                       "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
    compare("xmm", out, in, sizeof in);
    EQUAL(after, control);
}

/* The x87 stack with its control word: eight values, an unusual precision and rounding. */
static void x87(void) {
    double in[8] = {1.5, -2.25, 3.125, 1e300, -1e-300, 0.1, 7, 8}, out[8];
    uint16_t control = 0x0e7f, before, after, status;
    settled++;
    __asm__ volatile("fnstcw %[before]\n fninit\n fldcw %[control]\n"
                     "fldl 0(%[in])\n fldl 8(%[in])\n fldl 16(%[in])\n fldl 24(%[in])\n"
                     "fldl 32(%[in])\n fldl 40(%[in])\n fldl 48(%[in])\n fldl 56(%[in])\n"
                     "1: cmpl $0, (%[flag])\n je 1b\n"
                     "fnstcw %[after]\n fnstsw %[status]\n"
                     "fstpl 56(%[out])\n fstpl 48(%[out])\n fstpl 40(%[out])\n fstpl 32(%[out])\n"
                     "fstpl 24(%[out])\n fstpl 16(%[out])\n fstpl 8(%[out])\n fstpl 0(%[out])\n"
                     "fninit\n fldcw %[before]\n"
                     : [before] "=m"(before), [after] "=m"(after), [status] "=m"(status)
                     : [in] "r"(in), [out] "r"(out), [flag] "r"(&flag), [control] "m"(control)
                     : "memory", "cc", "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)");
    compare("st", out, in, sizeof in);
    EQUAL(after, control);
    /* Top of the stack is 0 after eight pushes. */
    EQUAL(status & 0x3800, 0);
}

static bool has_avx(void) {
    return __builtin_cpu_supports("avx");
}

#define EACH16(op)                                                                                                     \
    op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7) op(8) op(9) op(10) op(11) op(12) op(13) op(14) op(15)
#define EACH_HIGH(op)                                                                                                  \
    op(16) op(17) op(18) op(19) op(20) op(21) op(22) op(23) op(24) op(25) op(26) op(27) op(28) op(29) op(30) op(31)
#define LOAD_YMM(n) "vmovdqu 32*" #n "(%[in]), %%ymm" #n "\n"
#define STORE_YMM(n) "vmovdqu %%ymm" #n ", 32*" #n "(%[out])\n"

static void avx(void) {
    uint8_t in[16 * 32], out[16 * 32];
    fill(in, sizeof in, 2);
    settled++;
    __asm__ volatile(EACH16(LOAD_YMM) "1: cmpl $0, (%[flag])\n je 1b\n" EACH16(STORE_YMM) "vzeroupper\n"
                     :
                     : [in] "r"(in), [out] "r"(out), [flag] "r"(&flag)
                     : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                       "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
    compare("ymm", out, in, sizeof in);
}

static bool has_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
}

#define LOAD_ZMM(n) "vmovdqu64 64*" #n "(%[in]), %%zmm" #n "\n"
#define STORE_ZMM(n) "vmovdqu64 %%zmm" #n ", 64*" #n "(%[out])\n"
#define EACH_MASK(op) op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7)
#define LOAD_MASK(n) "kmovq 2048+8*" #n "(%[in]), %%k" #n "\n"
#define STORE_MASK(n) "kmovq %%k" #n ", 2048+8*" #n "(%[out])\n"

static void avx512(void) {
    uint8_t in[32 * 64 + 64], out[32 * 64 + 64];
    fill(in, sizeof in, 3);
    settled++;
    __asm__ volatile(EACH16(LOAD_ZMM) EACH_HIGH(LOAD_ZMM) EACH_MASK(LOAD_MASK) "1: cmpl $0, (%[flag])\n je 1b\n" EACH16(
                         STORE_ZMM) EACH_HIGH(STORE_ZMM) EACH_MASK(STORE_MASK) "vzeroupper\n"
                     :
                     : [in] "r"(in), [out] "r"(out), [flag] "r"(&flag)
                     : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                       "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
    compare("zmm and k", out, in, sizeof in);
}

/* Segment bases: fs is what thread-local variables hang on, gs is free. */
static __thread int local = 77;

static void bases(void) {
    static __thread uint64_t area[2];
    area[0] = (uint64_t)(uintptr_t)area ^ 0x55;
    MUST(syscall(SYS_arch_prctl, ARCH_SET_GS, area));
    uint64_t fs = 0;
    MUST(syscall(SYS_arch_prctl, ARCH_GET_FS, &fs));
    settled++;
    while (!flag)
        ;
    uint64_t through, base = 0, fs_after = 0;
    WORKS(syscall(SYS_arch_prctl, ARCH_GET_GS, &base));
    WORKS(syscall(SYS_arch_prctl, ARCH_GET_FS, &fs_after));
    EQUAL(base, area);
    EQUAL(fs_after, fs);
    __asm__ volatile("mov %%gs:0, %0" : "=r"(through));
    EQUAL(through, area[0]);
    EQUAL(local, 77);
}

static const struct spinner spinners[] = {
    {"general", always, general}, {"sse", always, sse},          {"x87", always, x87},
    {"avx", has_avx, avx},        {"avx512", has_avx512, avx512}, {"bases", always, bases},
    {"bases", always, bases},
};
enum { SPINNERS = sizeof spinners / sizeof *spinners };

static void *spin(void *spinner) {
    ((const struct spinner *)spinner)->run();
    return NULL;
}

TARGET(registers) {
    pthread_t threads[SPINNERS];
    int started = 0;
    for (int i = 0; i < SPINNERS; i++)
        if (spinners[i].supported())
            MUST0(pthread_create(&threads[started++], NULL, spin, (void *)&spinners[i]));
    await_count(&settled, started);
    /* `settled` rises just before the registers are loaded. Any instant is a good one to be stopped at, but the
     * interesting ones are those in the loops: wait until every thread has had the time to get there. */
    for (int i = 0; i < 20; i++)
        pause_ms(1);
    ready();
    await_go();
    flag = 1;
    for (int i = 0; i < started; i++)
        EQUAL(pthread_join(threads[i], NULL), 0);
    return done();
}

/* AMX: a tile configuration and eight tiles of 1 KiB, which a process has to ask for. */
struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes_per_row[16];
    uint8_t rows[16];
};

static void *tiles(void *unused) {
    static uint8_t in[8 * 1024], out[8 * 1024];
    struct tile_config config = {.palette = 1}, after;
    for (int i = 0; i < 8; i++)
        config.bytes_per_row[i] = 64, config.rows[i] = 16;
    fill(in, sizeof in, 4);
    settled++;
    __asm__ volatile("ldtilecfg (%[config])\n"
                     "tileloadd 0(%[in], %[stride], 1), %%tmm0\n"
                     "tileloadd 1024(%[in], %[stride], 1), %%tmm1\n"
                     "tileloadd 2048(%[in], %[stride], 1), %%tmm2\n"
                     "tileloadd 3072(%[in], %[stride], 1), %%tmm3\n"
                     "tileloadd 4096(%[in], %[stride], 1), %%tmm4\n"
                     "tileloadd 5120(%[in], %[stride], 1), %%tmm5\n"
                     "tileloadd 6144(%[in], %[stride], 1), %%tmm6\n"
                     "tileloadd 7168(%[in], %[stride], 1), %%tmm7\n"
                     "1: cmpl $0, (%[flag])\n je 1b\n"
                     "tilestored %%tmm0, 0(%[out], %[stride], 1)\n"
                     "tilestored %%tmm1, 1024(%[out], %[stride], 1)\n"
                     "tilestored %%tmm2, 2048(%[out], %[stride], 1)\n"
                     "tilestored %%tmm3, 3072(%[out], %[stride], 1)\n"
                     "tilestored %%tmm4, 4096(%[out], %[stride], 1)\n"
                     "tilestored %%tmm5, 5120(%[out], %[stride], 1)\n"
                     "tilestored %%tmm6, 6144(%[out], %[stride], 1)\n"
                     "tilestored %%tmm7, 7168(%[out], %[stride], 1)\n"
                     "sttilecfg (%[after])\n tilerelease\n"
                     :
                     : [config] "r"(&config), [after] "r"(&after), [in] "r"(in), [out] "r"(out),
                       [stride] "r"(64L), [flag] "r"(&flag)
                     : "memory", "cc");
    compare("tiles", out, in, sizeof in);
    compare("tile configuration", &after, &config, sizeof config);
    return unused;
}

TARGET(amx) {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & 1 << 24))
        skip("this processor has no AMX");
    /* ARCH_REQ_XCOMP_PERM for XFEATURE_XTILE_DATA. */
    if (syscall(SYS_arch_prctl, 0x1023, 18) != 0)
        skip("the kernel does not grant the use of AMX: %s", strerror(errno));
    pthread_t thread;
    MUST0(pthread_create(&thread, NULL, tiles, NULL));
    await_count(&settled, 1);
    for (int i = 0; i < 20; i++)
        pause_ms(1);
    ready();
    await_go();
    flag = 1;
    EQUAL(pthread_join(thread, NULL), 0);
    return done();
}
