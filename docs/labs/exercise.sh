#!/bin/sh
# For the exercises' scripts, which source it: how they reach the machines, and the learner's answers. What is in their
# environment stands at the head of vagrant/exercises.py.
set -eu

# A command on a machine, as by `./dev lab ssh`; its input is ours.
on() { python3 -m vagrant.lab ssh "$@"; }

# The file for the answers, with the questions in it. Answers that were given stay.
new_answers() { [ -f "$ANSWERS" ] || cp "$EXERCISE/answers" "$ANSWERS"; }

# answer NAME VALUE: as the learner would write it.
answer() { sed -i "s|^$1 *=.*|$1 = $2|" "$ANSWERS"; }

no_answers() { rm -f "$ANSWERS"; }

# What is so in the cluster: see there.
wait_for() { "$LABS/wait-for" "$@"; }

# The ids of a service's tasks, on one line.
running() { aws ecs list-tasks --service-name "$1" --query 'taskArns[]' --output text | sed 's|[^\t]*/||g'; }
