// probe is what the lab's own tests run in pods and in the lab's network: a small static program
// that serves, asks, resolves, writes and measures.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sort"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "probe serve :PORT | get URL | a NAME | srv NAME | write FILE TEXT | read FILE | fill FILE | size DIR")
		os.Exit(2)
	}
	text, err := run(os.Args[1], os.Args[2:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(text)
}

func run(what string, args []string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	switch what {
	case "serve":
		host, _ := os.Hostname()
		return "", http.ListenAndServe(args[0], http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s to %s", host, strings.Split(r.RemoteAddr, ":")[0])
		}))
	case "get":
		client := http.Client{Timeout: 5 * time.Second}
		response, err := client.Get(args[0])
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
		return string(body), err
	case "a":
		addresses, err := net.DefaultResolver.LookupHost(ctx, args[0])
		sort.Strings(addresses)
		return strings.Join(addresses, " "), err
	case "srv":
		_, records, err := net.DefaultResolver.LookupSRV(ctx, "", "", args[0])
		var all []string
		for _, r := range records {
			all = append(all, fmt.Sprintf("%s:%d", strings.TrimSuffix(r.Target, "."), r.Port))
		}
		sort.Strings(all)
		return strings.Join(all, " "), err
	case "write":
		if len(args) < 2 {
			return "", errors.New("write FILE TEXT")
		}
		err := os.WriteFile(args[0], []byte(args[1]), 0o600)
		return fmt.Sprintf("written as user %d", os.Getuid()), err
	case "read":
		data, err := os.ReadFile(args[0])
		return string(data), err
	case "fill":
		return fill(args[0])
	case "size":
		var s syscall.Statfs_t
		err := syscall.Statfs(args[0], &s)
		return fmt.Sprint(s.Blocks * uint64(s.Bsize) >> 20), err
	}
	return "", fmt.Errorf("no %q", what)
}

// fill writes until the disk is full, and tells how many MiB that took.
func fill(path string) (string, error) {
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	block := make([]byte, 1<<20)
	for written := 0; ; written++ {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
			return fmt.Sprintf("full after %d MiB", written), nil
		} else if err != nil {
			return "", err
		}
	}
}
