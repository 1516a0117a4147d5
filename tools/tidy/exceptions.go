package tidy

// longFiles are today's files above the size that asks a question, each with the
// reason why it is one thing. The list may shrink; growth needs a review.
var longFiles = map[string]string{}
