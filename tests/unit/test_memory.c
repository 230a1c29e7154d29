/* What the host still allows, read from control groups of both versions. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "data/memory.h"
#include "support/files.h"

static void put(const char *name, const char *text)
{
    fgmm_test_write_file(fgmm_test_path(name), text, strlen(text));
}

static int64_t available(void)
{
    return fgmm__memory_available_in(fgmm_test_path("meminfo"), fgmm_test_path("cgroup"),
                                     fgmm_test_path("groups"));
}

/* The groups' files of an earlier case or run are gone. */
static int begin_afresh(void **state)
{
    (void)state;
    const char *folders[] = {"groups", "groups/job", "groups/job/step", "groups/memory",
                             "groups/memory/slurm"};
    const char *files[] = {"memory.max", "memory.current", "memory.stat", "memory.limit_in_bytes",
                           "memory.usage_in_bytes"};
    for (int i = 0; i < 5; i++) {
        mkdir(fgmm_test_path(folders[i]), 0777);
        for (int j = 0; j < 5; j++) {
            char name[128];
            snprintf(name, sizeof name, "%s/%s", folders[i], files[j]);
            unlink(fgmm_test_path(name));
        }
    }
    put("meminfo", "MemTotal:       1000000 kB\nMemFree:  5 kB\nMemAvailable:    800000 kB\n");
    return 0;
}

static void without_groups_it_is_what_the_kernel_says(void **state)
{
    (void)state;
    put("cgroup", "");
    assert_int_equal(available(), (int64_t)800000 * 1024);
    put("cgroup", "0::/somewhere/else\n3:cpu:/job\n");
    assert_int_equal(available(), (int64_t)800000 * 1024);
}

static void the_tightest_of_nested_groups_counts(void **state)
{
    (void)state;
    put("cgroup", "0::/job/step\n");
    put("groups/job/step/memory.max", "max\n");
    put("groups/job/step/memory.current", "1000\n");
    put("groups/job/memory.max", "500000\n");
    put("groups/job/memory.current", "100000\n");
    assert_int_equal(available(), 400000);
    put("groups/job/step/memory.max", "300000\n");
    assert_int_equal(available(), 299000);
}

static void file_cache_that_can_go_does_not_count_as_used(void **state)
{
    (void)state;
    put("cgroup", "0::/job/step\n");
    put("groups/job/step/memory.max", "300000\n");
    put("groups/job/step/memory.current", "299000\n");
    put("groups/job/step/memory.stat", "anon 9000\ninactive_anon 1\nactive_file 7\ninactive_file 250000\n");
    assert_int_equal(available(), 251000);
}

static void version_one_has_its_own_names(void **state)
{
    (void)state;
    put("cgroup", "9:name=systemd:/\n4:cpu,memory:/slurm\n0::/\n");
    put("groups/memory/slurm/memory.limit_in_bytes", "70000\n");
    put("groups/memory/slurm/memory.usage_in_bytes", "80000\n");
    assert_int_equal(available(), 0);
    put("groups/memory/slurm/memory.stat", "inactive_file 3\ntotal_inactive_file 30000\n");
    assert_int_equal(available(), 20000);
    put("groups/memory/slurm/memory.limit_in_bytes", "9223372036854771712\n");
    assert_int_equal(available(), (int64_t)800000 * 1024);
}

static void this_machine_has_some(void **state)
{
    (void)state;
    int64_t bytes = fgmm__memory_available();
    assert_true(bytes > 1 << 20 && bytes < INT64_MAX);
}

int main(void)
{
    const struct CMUnitTest cases[] = {
        cmocka_unit_test_setup(without_groups_it_is_what_the_kernel_says, begin_afresh),
        cmocka_unit_test_setup(the_tightest_of_nested_groups_counts, begin_afresh),
        cmocka_unit_test_setup(file_cache_that_can_go_does_not_count_as_used, begin_afresh),
        cmocka_unit_test_setup(version_one_has_its_own_names, begin_afresh),
        cmocka_unit_test_setup(this_machine_has_some, begin_afresh),
    };
    return cmocka_run_group_tests(cases, NULL, NULL);
}
