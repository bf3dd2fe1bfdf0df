package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const ticksPerSecond = 100 // what Linux shows to programs, whatever the kernel uses

// family gives a process and its descendants; none for 0.
func family(pid int) []int {
	if pid == 0 {
		return nil
	}
	out := []int{pid}
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		content, _ := os.ReadFile(list)
		for _, child := range strings.Fields(string(content)) {
			number, _ := strconv.Atoi(child)
			out = append(out, family(number)...)
		}
	}
	return out
}

// cpuSeconds is what a process and its descendants have used, in user and system mode.
func cpuSeconds(pid int) float64 {
	ticks := 0
	for _, one := range family(pid) {
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", one))
		_, after, _ := strings.Cut(string(stat), ") ")
		if fields := strings.Fields(after); len(fields) > 12 {
			user, _ := strconv.Atoi(fields[11])
			system, _ := strconv.Atoi(fields[12])
			ticks += user + system
		}
	}
	return float64(ticks) / ticksPerSecond
}

// memoryBytes is what they have in memory; what they share counts for each.
func memoryBytes(pid int) int64 {
	var pages int64
	for _, one := range family(pid) {
		statm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", one))
		if fields := strings.Fields(string(statm)); len(fields) > 1 {
			resident, _ := strconv.ParseInt(fields[1], 10, 64)
			pages += resident
		}
	}
	return pages * int64(os.Getpagesize())
}
