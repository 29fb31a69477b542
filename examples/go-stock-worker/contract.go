package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
)

// answerKit is the worker without a broker: it takes messages as lines of JSON and says what would
// become of each. `contracts verify handler` asks, one line for one question.
func answerKit(path string, questions io.Reader, answers io.Writer) error {
	worker, err := newWorker(path)
	if err != nil {
		return err
	}
	lines := bufio.NewReader(questions)
	for {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		var question struct {
			Body *[]byte `json:"body_base64"`
		}
		if err := json.Unmarshal(line, &question); err != nil {
			return err
		}
		var answer any
		if question.Body != nil {
			answer = map[string]string{"outcome": worker.outcome(*question.Body)}
		} else {
			answer = map[string]any{"effects": worker.newest}
		}
		text, err := json.Marshal(answer)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(answers, "%s\n", text); err != nil {
			return err
		}
	}
}

func (w *worker) outcome(body []byte) string {
	found, err := w.read(body)
	if err != nil {
		return "park"
	}
	if err := w.commit([]change{found}); err != nil {
		return "retry"
	}
	return "ack"
}
