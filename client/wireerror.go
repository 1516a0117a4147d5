package client

import (
	"encoding/json"
	"errors"
	"io"

	"cairn"
)

// wireError is a *cairn.Error as it crosses the control socket.
type wireError struct {
	Op      string     `json:"op"`
	Subject string     `json:"subject,omitempty"`
	Place   string     `json:"place,omitempty"`
	Kind    cairn.Kind `json:"kind"` // the number
	Word    string     `json:"word"` // the kind's word, for readers without the list
	Cause   string     `json:"cause,omitempty"`
	Hint    string     `json:"hint,omitempty"`
}

type errorBody struct {
	Error *wireError `json:"error"`
}

func (w *wireError) asError() error {
	if w.Op == "" {
		return &plainError{text: w.Cause, kind: w.Kind}
	}
	e := &cairn.Error{Op: w.Op, Subject: w.Subject, Place: w.Place, Kind: w.Kind, Hint: w.Hint}
	if w.Cause != "" {
		e.Err = errors.New(w.Cause)
	}
	return e
}

// plainError is an error whose text was made whole at the daemon.
type plainError struct {
	text string
	kind cairn.Kind
}

func (e *plainError) Error() string { return e.text }
func (e *plainError) Unwrap() error { return e.kind }

// EncodeError writes an error body; the daemon's side of the protocol.
func EncodeError(w io.Writer, err error) error {
	body := &wireError{Kind: cairn.KindOf(err), Word: cairn.KindOf(err).String()}
	if e, ok := err.(*cairn.Error); ok { //nolint:errorlint // only the outermost has parts; text around it is part of the message
		body.Op, body.Subject, body.Place, body.Hint = e.Op, e.Subject, e.Place, e.Hint
		if e.Err != nil {
			body.Cause = e.Err.Error()
		}
	} else {
		body.Cause = err.Error()
	}
	return json.NewEncoder(w).Encode(errorBody{Error: body})
}
