/* Hot loops are compiled for several instruction sets and chosen when the program starts. Without contraction
 * of a*b+c and with a fixed order of additions all of them give the same bits. Sanitizers cannot run the
 * resolvers. */
#ifndef FGMM_BASE_CLONES_H
#define FGMM_BASE_CLONES_H

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) &&     \
    !defined(__SANITIZE_THREAD__) && !defined(FGMM_NO_CLONES)
#define FGMM_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define FGMM_CLONES
#endif

#endif
