/* The yardstick of bench_reload.py: start COUNT processes of /bin/sleep, replace each, end all.
 *
 * posix_spawn, SIGTERM and waitpid one after the other, and no promise at all. Prints the seconds of the
 * start and of the replacement.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>

static posix_spawn_file_actions_t actions;
static posix_spawnattr_t attributes;

static double now(void)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec + at.tv_nsec / 1e9;
}

static pid_t started(const char *program)
{
	char *argv[] = {"sleep", "1000", NULL}, *env[] = {NULL};
	pid_t pid;
	int error = posix_spawn(&pid, program, &actions, &attributes, argv, env);
	if (error) {
		fprintf(stderr, "cannot start %s: error %d\n", program, error);
		exit(1);
	}
	return pid;
}

static void ended(pid_t pid)
{
	kill(pid, SIGTERM);
	waitpid(pid, NULL, 0);
}

int main(int argc, char **argv)
{
	int count = argc > 2 ? atoi(argv[2]) : 0;
	pid_t *pids = calloc(count, sizeof *pids);
	if (count < 1 || !pids)
		return 2;
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID);
	double begun = now();
	for (int i = 0; i < count; i++)
		pids[i] = started(argv[1]);
	double all_started = now();
	for (int i = 0; i < count; i++) {
		ended(pids[i]);
		pids[i] = started(argv[1]);
	}
	double replaced = now();
	for (int i = 0; i < count; i++)
		ended(pids[i]);
	printf("%f %f\n", all_started - begun, replaced - all_started);
	return 0;
}
