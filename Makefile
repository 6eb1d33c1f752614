# SPDX-License-Identifier: Apache-2.0
# Thin front of CMake and CTest. `make demo` and `make test` install what is missing first.
BUILD ?= build
.PHONY: all deps demo test check clean install cuda
all: deps
	@scripts/build.sh $(BUILD)
deps:
	@scripts/deps.sh run test
demo: all
	@scripts/demo.sh $(BUILD)
test: all
	@scripts/test.sh $(BUILD)
check: all
	@scripts/check.sh $(BUILD)
cuda: deps
	@scripts/build.sh $(BUILD) -DT3V_CUDA=on
install: all
	cmake --install $(BUILD)
clean:
	rm -rf $(BUILD) $(BUILD)-*
