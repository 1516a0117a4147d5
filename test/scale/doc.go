// Package scale measures planning, pruning and deciding on places far larger than
// a test could fill: their listings are made up as they are read. It has tests only.
//
// By default the sizes are small, so that the suite is part of every test run;
// CAIRN_SCALE=full (make bench-plan) takes ten thousand datasets of a thousand
// versions and checks the budgets: 10 CPU seconds, 128 MiB, 0.1 CPU seconds for
// 100,000 versions of one dataset.
package scale
