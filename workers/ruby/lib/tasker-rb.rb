# frozen_string_literal: true

require "tasker_core"
