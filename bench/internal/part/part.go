// Package part runs pieces of a benchmark in processes of their own: the program starts itself
// again under the piece's name. The two speak JSON over the piece's standard input and output.
// A piece that serves ends when its input does, so none outlives the program.
package part

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
)

// env names the piece that a process is.
const env = "BENCH_PART"

// Func is a piece: it reads its task from in and writes what came of it to out.
type Func func(in *json.Decoder, out *json.Encoder) error

// Main becomes the piece that this process was started as, and does not return then. A program
// calls it before anything else.
func Main(parts map[string]Func) {
	name := os.Getenv(env)
	if name == "" {
		return
	}
	do, known := parts[name]
	if !known {
		log.Fatalf("this program has no part %q", name)
	}
	if err := do(json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)); err != nil {
		log.Fatalf("%s: %v", name, err)
	}
	os.Exit(0)
}

// Serve says where a piece can be reached and waits until it is not needed any more.
func Serve(in *json.Decoder, out *json.Encoder, address string) error {
	if err := out.Encode(address); err != nil {
		return err
	}
	if err := in.Decode(new(any)); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// Process is a running piece that serves.
type Process struct {
	Address string
	PID     int

	cmd *exec.Cmd
	in  io.Closer
}

// Start runs a piece with a task and returns when it has said where it can be reached.
func Start(name string, task any) (*Process, error) {
	cmd, in, out, err := start(name, task)
	if err != nil {
		return nil, err
	}
	p := &Process{PID: cmd.Process.Pid, cmd: cmd, in: in}
	if err := out.Decode(&p.Address); err != nil {
		return nil, errors.Join(fmt.Errorf("part %s: %w", name, err), p.Stop())
	}
	return p, nil
}

// Stop ends the piece and waits for that.
func (p *Process) Stop() error { return errors.Join(p.in.Close(), p.cmd.Wait()) }

// Run runs a piece with a task to its end and returns what came of it.
func Run[Result any](name string, task any) (result Result, err error) {
	cmd, in, out, err := start(name, task)
	if err != nil {
		return result, err
	}
	err = out.Decode(&result)
	err = errors.Join(err, in.Close(), cmd.Wait())
	if err != nil {
		return result, fmt.Errorf("part %s: %w", name, err)
	}
	return result, nil
}

func start(name string, task any) (*exec.Cmd, io.Closer, *json.Decoder, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, nil, err
	}
	cmd := exec.Command(self)
	cmd.Env, cmd.Stderr = append(os.Environ(), env+"="+name), os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, nil, err
	}
	if err := json.NewEncoder(in).Encode(task); err != nil {
		return nil, nil, nil, errors.Join(err, in.Close(), cmd.Wait())
	}
	return cmd, in, json.NewDecoder(out), nil
}
