#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/event.h"
#include "base/log.h"
#include "base/status.h"

static char path[] = "/tmp/fgmm_test_log_XXXXXX";
static int saved_stderr;

/* Sends stderr to a file from here on. */
static void capture(void)
{
    int file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_true(file >= 0);
    saved_stderr = dup(STDERR_FILENO);
    dup2(file, STDERR_FILENO);
    close(file);
}

/* Restores stderr and returns what was written. */
static const char *captured(void)
{
    static char text[8192];
    fflush(stderr);
    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    return text;
}

static void wait_milliseconds(int ms)
{
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000L}, NULL);
}

/* Runs first: the state of a program that uses the library alone. */
static void without_a_beginning_nothing_is_said(void **state)
{
    (void)state;
    capture();
    fgmm__info("info");
    fgmm__warn("warning");
    fgmm__progress_begin("reading", "rows", 10);
    fgmm__progress_add(5);
    fgmm__progress_end();
    assert_string_equal(captured(), "");
}

static void rank_0_says_what_its_verbosity_allows(void **state)
{
    (void)state;
    capture();
    for (int verbosity = -1; verbosity <= 1; verbosity++) {
        fgmm__log_init(0, verbosity, FGMM_PROGRESS_NEVER);
        fgmm__info("info %d", verbosity);
        fgmm__detail("detail %d", verbosity);
        fgmm__warn("component %d starved", verbosity);
    }
    assert_string_equal(captured(), "fgmm: warning: component -1 starved\n"
                                    "info 0\nfgmm: warning: component 0 starved\n"
                                    "info 1\ndetail 1\nfgmm: warning: component 1 starved\n");
}

static void other_ranks_are_silent(void **state)
{
    (void)state;
    capture();
    fgmm__log_init(1, 1, FGMM_PROGRESS_ALWAYS);
    fgmm__info("info");
    fgmm__warn("warning");
    fgmm__progress_begin("reading", "rows", 10);
    wait_milliseconds(250);
    fgmm__progress_add(5);
    fgmm__progress_end();
    assert_string_equal(captured(), "");
}

static void the_live_line_shows_share_rate_and_time_left(void **state)
{
    (void)state;
    capture();
    fgmm__log_init(0, 0, FGMM_PROGRESS_ALWAYS);
    fgmm__progress_begin("iteration 3/100", "rows", 4000000);
    fgmm__progress_add(500000);
    wait_milliseconds(250);
    fgmm__progress_add(500000);
    fgmm__progress_end();
    const char *text = captured();
    assert_non_null(strstr(text, "\riteration 3/100:  25%  "));
    assert_non_null(strstr(text, " Mrows/s  0:0"));
    assert_string_equal(text + strlen(text) - 4, "\r\033[K");
}

static void a_message_clears_the_live_line_first(void **state)
{
    (void)state;
    capture();
    fgmm__log_init(0, 0, FGMM_PROGRESS_ALWAYS);
    fgmm__progress_begin("reading", "rows", 10);
    wait_milliseconds(250);
    fgmm__progress_add(1);
    fgmm__info("done");
    const char *text = captured();
    assert_non_null(strstr(text, "left\033[K\r\033[Kdone\n"));
}

static void short_work_shows_nothing_in_a_file(void **state)
{
    (void)state;
    capture();
    fgmm__log_init(0, 0, FGMM_PROGRESS_AUTO);
    fgmm__progress_begin("reading", "rows", 10);
    wait_milliseconds(250);
    fgmm__progress_add(5);
    fgmm__progress_end();
    assert_string_equal(captured(), "");
}

/* ---- the JSON log ---- */

static void every_event_is_one_line_of_json(void **state)
{
    (void)state;
    assert_int_equal(fgmm__event_open(path), FGMM_OK);
    for (int i = 0; i < 2; i++) {
        cJSON *event = fgmm__event_new("iteration");
        cJSON_AddNumberToObject(event, "n", i);
        cJSON_AddStringToObject(event, "note", "two\nlines");
        fgmm__event_emit(event);
    }
    fgmm__event_close();
    FILE *file = fopen(path, "r");
    char line[512];
    assert_non_null(file);
    for (int i = 0; i < 2; i++) {
        assert_non_null(fgets(line, sizeof line, file));
        cJSON *event = cJSON_Parse(line);
        assert_non_null(event);
        assert_string_equal(cJSON_GetObjectItem(event, "event")->valuestring, "iteration");
        assert_int_equal(cJSON_GetObjectItem(event, "n")->valueint, i);
        assert_true(cJSON_GetObjectItem(event, "time")->valuedouble > 1.6e9);
        cJSON_Delete(event);
    }
    assert_null(fgets(line, sizeof line, file));
    fclose(file);
}

static void a_second_run_adds_to_the_log(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(fgmm__event_open(path), FGMM_OK);
        fgmm__event_emit(fgmm__event_new("start"));
        fgmm__event_close();
    }
    FILE *file = fopen(path, "r");
    char line[512];
    int lines = 0;
    assert_non_null(file);
    while (fgets(line, sizeof line, file) != NULL)
        lines++;
    fclose(file);
    assert_int_equal(lines, 2);
}

static void events_without_a_log_are_dropped(void **state)
{
    (void)state;
    assert_int_equal(fgmm__event_open(NULL), FGMM_OK);
    fgmm__event_emit(fgmm__event_new("end"));
    assert_int_equal(access(path, F_OK), -1);
}

static void a_log_in_a_missing_folder_is_refused_by_name(void **state)
{
    (void)state;
    fgmm_error_clear();
    assert_int_equal(fgmm__event_open("/nowhere/at/all/log.json"), FGMM_ERR_INPUT);
    assert_string_equal(fgmm_error_message(),
                        "/nowhere/at/all/log.json: the log cannot be written: No such file or directory");
}

static int no_file(void **state)
{
    (void)state;
    unlink(path);
    return 0;
}

int main(void)
{
    int file = mkstemp(path);
    if (file < 0)
        return 1;
    close(file);
    unlink(path);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(without_a_beginning_nothing_is_said, no_file),
        cmocka_unit_test_teardown(rank_0_says_what_its_verbosity_allows, no_file),
        cmocka_unit_test_teardown(other_ranks_are_silent, no_file),
        cmocka_unit_test_teardown(the_live_line_shows_share_rate_and_time_left, no_file),
        cmocka_unit_test_teardown(a_message_clears_the_live_line_first, no_file),
        cmocka_unit_test_teardown(short_work_shows_nothing_in_a_file, no_file),
        cmocka_unit_test_teardown(every_event_is_one_line_of_json, no_file),
        cmocka_unit_test_teardown(a_second_run_adds_to_the_log, no_file),
        cmocka_unit_test_teardown(events_without_a_log_are_dropped, no_file),
        cmocka_unit_test_teardown(a_log_in_a_missing_folder_is_refused_by_name, no_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
