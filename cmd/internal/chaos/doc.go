// Package chaos has tests that run the project's commands as processes, as operators do, and break them: it kills them,
// suspends them, and takes disk, descriptors and memory away from them, while vendors, agents, a monitor and an exporter
// are at work. What was acknowledged must be there afterwards. docs/reliability.md says what each test shows, and how long
// ones are run.
package chaos
